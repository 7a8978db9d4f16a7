"""The sides that are the database alone: pgbench, and COPY with totals. Both write into tables of the project's schema,
in a database of their own on the same engine, over the same socket.
"""

import io
import json
import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from bench.stack import Stack
from project.engines import postgres
from project.ids import new_id

SCRIPT = Path(__file__).parent / "claim.sql"
_TPS = re.compile(r"tps = ([0-9.]+) \(without initial connection time\)")
_COLUMNS = (
    "service_dttm", "submitted_proc", "quadrant", "group_id", "subscriber_id", "provider_npi", "provider_fees",
    "allowed_fees", "member_co_ins", "member_co_pay",
)  # fmt: skip
# The same totals as the service's.
_TOTALS = """
INSERT INTO provider_net_fee AS total (provider_npi, net_fee, line_count)
SELECT * FROM unnest($1::text[], $2::numeric[], $3::bigint[])
ON CONFLICT (provider_npi) DO UPDATE
SET net_fee = total.net_fee + excluded.net_fee, line_count = total.line_count + excluded.line_count
"""


def pgbench(stack: Stack, database: str, clients: int, seconds: float) -> float:
    """Claims a second of SCRIPT, a transaction each."""
    argv = [postgres.binary("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={SCRIPT}",
            f"--client={clients}", "--jobs=2", f"--time={seconds:.0f}"]  # fmt: skip
    where = {"PGHOST": str(stack.places.sockets), "PGUSER": "app", "PGDATABASE": database}
    done = subprocess.run(argv, env=os.environ | where, capture_output=True, text=True, check=False)
    found = _TPS.search(done.stdout)
    if done.returncode or not found or "number of failed transactions: 0 " not in done.stdout:
        raise RuntimeError(f"pgbench: {done.stdout}{done.stderr}")
    return float(found[1])


class Chunk:
    """Lines of claims ready for COPY, and what they add to the totals; the ids are made when it is sent."""

    def __init__(self, claims: Iterable[str]) -> None:
        self.claims: list[list[str]] = []
        fees: defaultdict[str, Decimal] = defaultdict(Decimal)
        counts: defaultdict[str, int] = defaultdict(int)
        for claim in claims:
            rows = []
            for number, line in enumerate(json.loads(claim, parse_float=Decimal), 1):
                net = line["provider_fees"] + line["member_co_ins"] + line["member_co_pay"] - line["allowed_fees"]
                fees[line["provider_npi"]] += net
                counts[line["provider_npi"]] += 1
                cells = ("\\N" if line[name] is None else str(line[name]) for name in _COLUMNS)
                rows.append("\t".join((str(number), *cells, str(net))))
            self.claims.append(rows)
        npis = sorted(fees)
        self.totals = (npis, [fees[npi] for npi in npis], [counts[npi] for npi in npis])
        self.lines = sum(map(len, self.claims))

    def text(self) -> bytes:
        """As COPY takes it, under new ids."""
        return "".join(
            f"{claim_id}\t{row}\n" for rows in self.claims for claim_id in [new_id()] for row in rows
        ).encode()


async def copy(url: str, chunks: Sequence[Chunk], seconds: float) -> float:
    """Lines a second of COPY and totals, a transaction a chunk, on one connection. Making the text is not counted."""
    connection: Any = await asyncpg.connect(url)
    spent, lines = 0.0, 0
    try:
        while spent < seconds:
            for chunk in chunks:
                text = io.BytesIO(chunk.text())
                started = time.perf_counter()
                async with connection.transaction():
                    await connection.copy_to_table(
                        "claim_line", source=text, columns=["claim_id", "line_no", *_COLUMNS, "net_fee"]
                    )
                    await connection.execute(_TOTALS, *chunk.totals)
                spent += time.perf_counter() - started
                lines += chunk.lines
                if spent >= seconds:
                    break
    finally:
        await connection.close()
    return lines / spent
