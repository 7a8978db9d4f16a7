"""The whole service as `python -m project` runs it, with its own engines, for tests that look at all of it."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from project import audit
from project.engines.places import Places
from project.tests.service import line, wait_until
from project.tests.supervision import Supervisor, supervising

RUN = [sys.executable, "-m", "project"]


class Site:
    """A running service over a data folder, and a person who looks into its database."""

    def __init__(self, supervisor: Supervisor, data_dir: Path) -> None:
        self.supervisor = supervisor
        self.places = Places(data_dir)
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{supervisor.port}", timeout=20)

    def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Rows of its database."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.places.postgres_url)
            try:
                return [tuple(row) for row in await connection.fetch(query, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def execute(self, script: str) -> None:
        """Statements, without rows."""

        async def do() -> None:
            connection = await asyncpg.connect(self.places.postgres_url)
            try:
                await connection.execute(script)
            finally:
                await connection.close()

        asyncio.run(do())

    def accepted(self, **changes: Any) -> str:
        """The id of a claim of one line that must be accepted."""
        answer = self.http.post("/claims", json=[line(**changes)])
        assert answer.status_code == 201, answer.text
        claim_id: str = answer.json()["id"]
        return claim_id

    def status_of(self, claim_id: str) -> int:
        """What GET of the claim answers."""
        return self.http.get(f"/claims/{claim_id}").status_code

    def stored(self) -> set[str]:
        """The ids of all claims."""
        return {row[0] for row in self.fetch("SELECT id::text FROM claim")}

    def await_quiet(self) -> None:
        """Waits until every claim is paid or reversed."""
        wait_until(lambda: self.fetch("SELECT 1 FROM payment WHERE state <> 'paid'") == [], "nothing is due")

    def books(self) -> tuple[audit.Books, int]:
        """The books, and how many claims contradict their payment."""

        async def ask() -> tuple[audit.Books, int]:
            connection = await asyncpg.connect(self.places.postgres_url)
            try:
                return await audit.books(connection), await audit.torn(connection)
            finally:
                await connection.close()

        return asyncio.run(ask())

    def paid(self) -> dict[str, Decimal]:
        """What is paid by our own books, by key."""
        query = "SELECT claim.id || ':' || claim.redrive_no, net_fee FROM claim WHERE status = 'paid'"
        return dict(self.fetch(query))


@contextmanager
def serving(data_dir: Path, **settings: str) -> Iterator[Site]:
    """A site that serves; stopped at the end, without a traceback."""
    with supervising(data_dir, RUN, None, (), **settings) as supervisor:
        supervisor.await_line("serving")
        running = Site(supervisor, data_dir)
        with running.http:
            yield running
    assert not supervisor.said("Traceback")
