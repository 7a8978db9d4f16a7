"""The whole saga in real processes for tests: stand-in, workers, and a claim's way told in the domain's words."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from project import audit
from project.claims.batch import NewClaim
from project.tests.rows import new_claim, store
from project.tests.service import Daemon, environment, free_port, wait_until


class StandIn(Daemon):
    """The stand-in payments service."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        argv = [sys.executable, "-m", "project.payments.stand_in"]
        super().__init__(folder, argv, f"http://127.0.0.1:{port}", "/livez", {"PAYMENTS_PORT": str(port)})

    def behave(self, **behaviour: Any) -> None:
        """Misbehaves like this from now on; without words, not at all."""
        well = {"refuse_rate": 0, "fail_rate": 0, "drop_after_commit_rate": 0, "garbage_rate": 0, "delay_ms": 0}
        answer = self.http.put("/behaviour", json={**well, "refuse_npis": [], **behaviour})
        assert answer.status_code == 200, answer.text

    def paid(self) -> dict[str, Decimal]:
        """The amounts of all payments that are paid, by key."""
        items = self.http.get("/payments").json()["items"]
        return {one["idempotency_key"]: Decimal(one["net_fee"]) for one in items if one["status"] == "paid"}


class Worker(Daemon):
    """A worker."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        port = free_port()
        argv = [sys.executable, "-m", "project.worker"]
        super().__init__(folder, argv, f"http://127.0.0.1:{port}", "/livez", {"METRICS_PORT": str(port), **settings})

    def metric(self, sample: str) -> float | None:
        """The value of a sample, written with its labels as it is exposed."""
        for told in self.http.get("/metrics").text.splitlines():
            if told.startswith(f"{sample} "):
                return float(told.rsplit(" ", 1)[1])
        return None


class Saga:
    """A stand-in and as many workers as a test starts, over one database and one Redis."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.workers: list[Worker] = []
        self._folder = folder
        self.payments = StandIn(folder / "payments")
        self.payments.await_ready()

    def worker(self, **settings: str) -> Worker:
        """One more worker, at work when this returns."""
        urls = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "PAYMENTS_URL": self.payments.url}
        started = Worker(self._folder / f"worker{len(self.workers) + 1}", urls | settings)
        self.workers.append(started)
        started.await_ready()
        return started

    def submit(self, count: int = 1, *lines: dict[str, object], number: str | None = None) -> list[NewClaim]:
        """Claims through the ledger, without a wake-up for anybody."""
        claims = [new_claim(*lines, number=number) for _ in range(count)]
        asyncio.run(store(self.database_url, claims))
        return claims

    def run(self, *words: str) -> str:
        """What `python -m project WORDS` prints; it must succeed."""
        output, code = self.run_any(*words)
        assert code == 0, output
        return output

    def run_any(self, *words: str) -> tuple[str, int]:
        """The same whether it succeeds or not, and its exit code."""
        argv = [sys.executable, "-m", "project", *words]
        urls = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "PAYMENTS_URL": self.payments.url}
        done = subprocess.run(argv, env=environment(self._folder, **urls), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr, done.returncode

    def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Rows of the database."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.database_url)
            try:
                return [tuple(row) for row in await connection.fetch(query, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def history(self, claim_id: UUID) -> list[str]:
        """The types of the claim's events so far, without their common first word."""
        rows = self.fetch("SELECT type FROM claim_event WHERE claim_id = $1 ORDER BY seq", claim_id)
        return [row[0].removeprefix("claim.") for row in rows]

    def await_event(self, claim_id: UUID, kind: str, within_s: float = 30.0) -> None:
        """Waits until the claim's last event is of this kind."""
        wait_until(lambda: self.history(claim_id)[-1:] == [kind], f"{claim_id} is {kind}", within_s)

    def await_quiet(self, within_s: float = 60.0) -> None:
        """Waits until every claim is paid or reversed."""
        query = "SELECT count(*) FROM payment WHERE state <> 'paid'"
        wait_until(lambda: self.fetch(query) == [(0,)], "every claim is paid or reversed", within_s)

    def reconcile(self, accepted: set[UUID]) -> tuple[int, int]:
        """I1 to I4, once quiet: each of these claims is paid once, or reversed with nothing paid; how many of each."""
        books, torn = asyncio.run(self._audit())
        assert books.difference == 0, books
        assert torn == 0
        live = {row[0]: row[1:] for row in self.fetch("SELECT id, redrive_no, net_fee, status FROM claim")}
        ended = dict(self.fetch("SELECT claim_id, (array_agg(type ORDER BY seq DESC))[1] FROM claim_event GROUP BY 1"))
        reversed_ids = {claim_id for claim_id, last in ended.items() if last in ("claim.reversed", "claim.discarded")}
        assert accepted <= live.keys() | reversed_ids
        assert not live.keys() & reversed_ids
        assert {status for _, _, status in live.values()} <= {"paid"}
        ours = {f"{claim_id}:{redrive_no}": net_fee for claim_id, (redrive_no, net_fee, _) in live.items()}
        assert self.payments.paid() == ours
        return len(accepted & live.keys()), len(accepted & reversed_ids)

    async def _audit(self) -> tuple[audit.Books, int]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await audit.books(connection), await audit.torn(connection)
        finally:
            await connection.close()

    def logs(self) -> str:
        """Everything that the processes logged."""
        return "".join(one.log.read_text() for one in [*self.workers, self.payments])

    def told(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, of all workers."""
        lines = [line for one in self.workers for line in one.log.read_text().splitlines() if line.startswith("{")]
        return [told for told in map(json.loads, lines) if told["event"] == event]

    def close(self) -> None:
        """Stops everything; none may have left a traceback behind."""
        for one in [*self.workers, self.payments]:
            one.close()
        print(self.logs())  # noqa: T201  pytest shows it with a test that failed
        assert "Traceback" not in self.logs()


@contextmanager
def performing(folder: Path, database_url: str, redis_url: str) -> Iterator[Saga]:
    """A stand-in without workers; everything that was started is stopped at the end."""
    saga = Saga(folder, database_url, redis_url)
    try:
        yield saga
    finally:
        saga.close()
