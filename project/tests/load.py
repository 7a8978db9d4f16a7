"""Clients that post claims under a fault and keep every answer, and what is stored afterwards. Used by the flows."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import httpx2

from project.tests.service import line


def stored_ids(database_url: str) -> set[str]:
    """The ids of all claims that have all their rows."""
    query = (
        "SELECT c.id::text FROM claim c "
        "WHERE c.line_count = (SELECT count(*) FROM claim_line l WHERE l.claim_id = c.id) "
        "AND EXISTS (SELECT 1 FROM payment p WHERE p.claim_id = c.id) "
        "AND EXISTS (SELECT 1 FROM claim_event e WHERE e.claim_id = c.id)"
    )

    async def ask() -> set[str]:
        connection = await asyncpg.connect(database_url)
        try:
            assert await connection.fetchval("SELECT sum(net_fee) FROM claim_line") == await connection.fetchval(
                "SELECT sum(net_fee) FROM provider_net_fee"
            )
            return {row[0] for row in await connection.fetch(query)}
        finally:
            await connection.close()

    return asyncio.run(ask())


class Load:
    """Clients that post claims one after the other and keep every answer."""

    def __init__(self, url: str, clients: int = 8, lines: int = 2) -> None:
        self.answers: list[httpx2.Response] = []
        self.broken = 0
        self._url = url
        self._claim = [line(provider_fees=101), *[line()] * (lines - 1)]
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._post) for _ in range(clients)]

    def _post(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(client.post("/claims", json=self._claim))
                except httpx2.TransportError:
                    self.broken += 1
                    self._stop.wait(0.05)

    def accepted(self) -> set[str]:
        """The ids of the claims that were acknowledged."""
        return {answer.json()["id"] for answer in self.answers if answer.status_code == 201}

    @contextmanager
    def on(self) -> Iterator["Load"]:
        """Posts until the block ends, and then until the requests in hand are answered."""
        for client in self._clients:
            client.start()
        try:
            yield self
        finally:
            self._stop.set()
            for client in self._clients:
                client.join()
