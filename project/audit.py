"""Questions to the database that tell whether the books balance and nothing is left lying. Called by `doctor`, which
answers an operator, and by `gauges`, which answers Prometheus. Amounts are USD.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

# One statement, one snapshot: four sums that must be the same to the cent.
_LEDGER = """
SELECT (SELECT coalesce(sum(net_fee), 0.00) FROM claim_line),
       (SELECT coalesce(sum(net_fee), 0.00) FROM claim),
       (SELECT coalesce(sum(net_fee), 0.00) FROM provider_net_fee),
       (SELECT coalesce(sum(CASE type WHEN 'claim.accepted' THEN amount WHEN 'claim.redriven' THEN amount
                                      WHEN 'claim.reversed' THEN -amount ELSE 0 END), 0.00) FROM claim_event)
"""

# Claims and payments that contradict each other; one transaction writes both, so there are none.
_TORN = """
SELECT count(*) FROM claim FULL JOIN payment ON claim.id = payment.claim_id
WHERE claim.id IS NULL OR payment.claim_id IS NULL OR claim.redrive_no <> payment.redrive_no
   OR (claim.status, payment.state) NOT IN (('accepted', 'due'), ('paid', 'paid'), ('reversing', 'reversing'))
"""

# $1 after (interval): open payments whose claim was accepted, or sent again, longer ago than that
_STUCK = """
SELECT claim_id, state, attempts, last_error FROM payment
WHERE state <> 'paid' AND (
    SELECT max(at) FROM claim_event
    WHERE claim_event.claim_id = payment.claim_id AND type IN ('claim.accepted', 'claim.redriven')
) < now() - $1::interval
ORDER BY claim_id
"""

_BACKLOG = """
SELECT (SELECT count(*) FROM payment WHERE state = 'due') AS due,
       (SELECT count(*) FROM payment WHERE state = 'reversing') AS reversing,
       (SELECT min(claim_id::text) FROM (
            SELECT claim_id FROM payment WHERE state = 'due' ORDER BY claim_id LIMIT 1) AS oldest) AS oldest,
       (SELECT count(*) FROM claim_event WHERE published_at IS NULL) AS unpublished
"""

_LETTERS = "SELECT reason, state, count(*) FROM dead_letter GROUP BY reason, state"
_PAID = "SELECT count(*) FROM payment WHERE state = 'paid'"


@dataclass(frozen=True, slots=True)
class Books:
    """The four sums of invariant I4."""

    lines: Decimal
    claims: Decimal
    providers: Decimal
    events: Decimal

    @property
    def difference(self) -> Decimal:
        """How far apart the sums are at most; 0.00 when the books balance."""
        sums: list[Decimal] = list(asdict(self).values())
        return (max(sums) - min(sums)).quantize(Decimal("0.01"))


@dataclass(frozen=True, slots=True)
class Stuck:
    """A claim that is neither paid nor reversed, and should be by now."""

    claim_id: UUID
    state: str
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is in the queues. `oldest_due` is the id, and so the age, of the oldest claim that is not paid yet."""

    due: int
    reversing: int
    oldest_due: UUID | None
    unpublished: int
    letters: dict[tuple[str, str], int]


async def books(connection: Any) -> Books:
    """Reads all rows of four tables: seconds, for millions of claims."""
    return Books(*await connection.fetchrow(_LEDGER))


async def torn(connection: Any) -> int:
    """How many claims and payments contradict each other."""
    return int(await connection.fetchval(_TORN))


async def stuck(connection: Any, after_s: int) -> Sequence[Stuck]:
    """Claims that wait for longer than `after_s` seconds, oldest first."""
    return [Stuck(*row) for row in await connection.fetch(_STUCK, timedelta(seconds=after_s))]


async def paid(connection: Any) -> int:
    """How many claims are paid; reads all payments."""
    return int(await connection.fetchval(_PAID))


async def backlog(connection: Any) -> Backlog:
    """Cheap enough for every few seconds: partial indexes only, and the dead letters."""
    due, reversing, oldest, unpublished = await connection.fetchrow(_BACKLOG)
    letters = {(reason, state): count for reason, state, count in await connection.fetch(_LETTERS)}
    return Backlog(due, reversing, oldest and UUID(oldest), unpublished, letters)
