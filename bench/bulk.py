"""Rows about many claims at once: `POST /claims/batch` and `python -m project import`. Called by `__main__`."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property

import httpx2

from bench import bodies, database
from bench.ground import Ground
from bench.rows import Row, Side, Spec, in_turn, needed
from bench.stack import FOLDER
from project.settings import MEBIBYTE
from project.tests.service import ROOT, environment

LINES_OF_CLAIM = 100
BATCH_BYTES = 60 * MEBIBYTE  # a little less than MAX_BATCH_BYTES
BATCH_ROWS = 10_000
COPIED_CLAIMS = 100  # in a transaction: as many lines as the service commits at once
COPIED_CHUNKS = 20
LONGEST_S = 1800.0

_COPY = "COPY of the same lines, and the same totals"
SPECS = (
    Spec(
        "bulk-batch", "`POST /claims/batch` of 1,000,000 lines", _COPY,
        f"claims of {LINES_OF_CLAIM} lines in requests of {BATCH_BYTES // MEBIBYTE} MiB, one after the other, until "
        "each row is answered, against ready-made text copied on one connection, 10,000 lines a transaction",
        0.6, "lines/s", ("batch", "copy"),
    ),
    Spec(
        "bulk-import", "`python -m project import` of 1,000,000 lines", _COPY,
        f"a file of claims of {LINES_OF_CLAIM} lines, from the command's start to its end, against the same",
        0.6, "lines/s", ("import", "copy"),
    ),
)  # fmt: skip


class Bulk:
    """The same claims for all sides; each round has group ids of its own, so that nothing counts as a repeat."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._claims = list(bodies.claims(ground.plan.bulk_lines // LINES_OF_CLAIM, LINES_OF_CLAIM))
        self._round = 0

    @property
    def _lines(self) -> int:
        return len(self._claims) * LINES_OF_CLAIM

    def _fresh(self) -> list[str]:
        self._round += 1
        return [claim.replace('"GRP-', f'"G{self._round}-') for claim in self._claims]

    def batch(self) -> dict[str, float]:
        """Lines a second through the route."""
        requests = list(_requests(self._fresh()))
        service, passed = self._ground.service, 0.0
        with service.stores_all(0) as stored:
            for claims in requests:
                started = time.perf_counter()
                answer = httpx2.post(
                    f"{service.url}/claims/batch",
                    content="\n".join(claims),
                    headers={"Content-Type": "application/x-ndjson"},
                    timeout=LONGEST_S,
                ).raise_for_status()
                passed += time.perf_counter() - started
                others = [row for row in map(json.loads, answer.text.splitlines()) if row["status"] != 201]
                if others:
                    raise RuntimeError(f"{len(others)} rows of a batch are not 201, such as {others[0]}")
                stored.acknowledged += len(claims)
        service.await_drained()
        return {"batch": self._lines / passed}

    def imported(self) -> dict[str, float]:
        """Lines a second through the command."""
        file, service = FOLDER / f"import-{self._round}.ndjson", self._ground.service
        file.write_text("".join(f"{claim}\n" for claim in self._fresh()))
        with service.stores_all(0) as stored:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "project", "import", str(file)],
                cwd=ROOT,
                env=environment(service.folder / "var"),
                capture_output=True,
                text=True,
                check=False,
            )
            passed = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(f"import ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}")
            stored.acknowledged = len(self._claims)
        file.unlink()
        service.await_drained()
        return {"import": self._lines / passed}

    def copy(self) -> dict[str, float]:
        """Lines a second through COPY."""
        ground = self._ground
        return {"copy": asyncio.run(database.copy(ground.copied_database, self._chunks, ground.plan.seconds))}

    @cached_property
    def _chunks(self) -> list[database.Chunk]:
        starts = range(0, min(len(self._claims), COPIED_CLAIMS * COPIED_CHUNKS), COPIED_CLAIMS)
        return [database.Chunk(self._claims[start : start + COPIED_CLAIMS]) for start in starts]


def _requests(claims: Sequence[str]) -> Iterator[list[str]]:
    """Claims by as many as a request may have."""
    request: list[str] = []
    size = 0
    for claim in claims:
        if request and (size + len(claim) >= BATCH_BYTES or len(request) == BATCH_ROWS):
            yield request
            request, size = [], 0
        request.append(claim)
        size += len(claim) + 1
    yield request


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """Those rows that are wanted."""
    bulk = Bulk(ground)
    sides: dict[str, Side] = {"batch": bulk.batch, "copy": bulk.copy, "import": bulk.imported}
    figures = in_turn(ground.plan.slow_pairs, needed(wanted, sides))
    for spec in wanted:
        left, right = spec.needs
        yield Row(spec, figures[left], figures[right])
