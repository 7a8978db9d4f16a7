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
from typing import Any, NamedTuple

import asyncpg

from bench.stack import Stack
from project.claims.columns import FIELDS
from project.claims.fees import line_net_fee
from project.claims.statements import TOTALS
from project.engines import postgres
from project.ids import new_id

CLAIM = Path(__file__).parent / "claim.sql"
AMOUNTS = FIELDS[-4:]
_TPS = re.compile(r"tps = ([0-9.]+) \(without initial connection time\)")
_DONE = re.compile(r"number of transactions actually processed: ([0-9]+)")


class Run(NamedTuple):
    """Of pgbench: `rate` a second."""

    rate: float
    transactions: int


def pgbench(stack: Stack, database: str, script: Path, clients: int, *limit: str, **variables: float) -> Run:
    """Runs of a script a second. `limit`: --time=SECONDS, or --transactions=EACH_CLIENT."""
    argv = [postgres.binary("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={script}", *limit,
            f"--client={clients}", "--jobs=2",
            *(f"--define={name}={value}" for name, value in variables.items())]  # fmt: skip
    where = {"PGHOST": str(stack.places.sockets), "PGUSER": "app", "PGDATABASE": database}
    done = subprocess.run(argv, env=os.environ | where, capture_output=True, text=True, check=False)
    rate, count = _TPS.search(done.stdout), _DONE.search(done.stdout)
    if done.returncode or not rate or not count or "number of failed transactions: 0 " not in done.stdout:
        raise RuntimeError(f"pgbench: {done.stdout}{done.stderr}")
    return Run(float(rate[1]), int(count[1]))


class Chunk:
    """Lines of claims ready for COPY, and what they add to the totals; the ids are made when it is sent."""

    def __init__(self, claims: Iterable[str]) -> None:
        self.claims: list[list[str]] = []
        fees: defaultdict[str, Decimal] = defaultdict(Decimal)
        counts: defaultdict[str, int] = defaultdict(int)
        for claim in claims:
            rows = []
            for number, line in enumerate(json.loads(claim, parse_float=Decimal), 1):
                net = line_net_fee(*(line[name] for name in AMOUNTS))
                fees[line["provider_npi"]] += net
                counts[line["provider_npi"]] += 1
                cells = ("\\N" if line[name] is None else str(line[name]) for name in FIELDS)
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
                        "claim_line", source=text, columns=["claim_id", "line_no", *FIELDS, "net_fee"]
                    )
                    await connection.execute(TOTALS, *chunk.totals)
                spent += time.perf_counter() - started
                lines += chunk.lines
                if spent >= seconds:
                    break
    finally:
        await connection.close()
    return lines / spent
