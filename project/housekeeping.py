"""What has outlived its retention is deleted, a little at a time, and what a clock that was set back has put far off is
made due. Called by `worker` while it leads.
"""

from datetime import timedelta
from typing import Any

from project.claims.statements import KEYS_EXPIRED
from project.dead_letters.statements import EXPIRED as LETTERS_EXPIRED
from project.payments.statements import CLOCK_SET_BACK
from project.telemetry import saga_metrics as metrics

AT_ONCE = 1_000


async def keep_house(connection: Any, key_retention_s: int, letter_retention_s: int) -> dict[str, int]:
    """Deletes expired idempotency keys and closed dead letters; how many of each. Each step commits by itself."""
    await connection.execute(CLOCK_SET_BACK)
    deleted = {}
    for table, statement, retention_s in (
        ("idempotency_key", KEYS_EXPIRED, key_retention_s),
        ("dead_letter", LETTERS_EXPIRED, letter_retention_s),
    ):
        deleted[table] = 0
        while True:
            tag = await connection.execute(statement, timedelta(seconds=retention_s), AT_ONCE)
            count = int(tag.rsplit(" ", 1)[-1])
            deleted[table] += count
            metrics.EXPIRED.labels(table).inc(count)
            if count < AT_ONCE:
                break
    metrics.HOUSE_KEPT.set_to_current_time()
    return deleted
