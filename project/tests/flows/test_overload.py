"""More than a process can take: what is accepted is kept, the rest is told so at once, and nobody else notices.

How much of its pace it keeps is measured by `make bench`, not here.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx2

from project.tests.conftest import Run
from project.tests.load import stored_ids
from project.tests.service import Service, line, wait_until

BODY = json.dumps([line(provider_fees=101), line()]).encode()
POST = (
    b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Prefer: return=minimal\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class Flood:
    """Clients that post as fast as they are answered, whatever the answer; `accepted` are ids, `refused` problems."""

    def __init__(self, service: Service, clients: int) -> None:
        self.accepted: set[str] = set()
        self.refused: list[tuple[str, str]] = []
        self.slowest_refusal_s = 0.0
        self._port = int(service.url.rsplit(":", 1)[1])
        self._clients = clients
        self._stop = False

    def run(self) -> None:
        """Until `stop`."""
        asyncio.run(self._run())

    def stop(self) -> None:
        self._stop = True

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._stop:
            sent = time.monotonic()
            writer.write(POST)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.split("content-length: ", 1)[1].split("\r\n", 1)[0])
            body = json.loads(await reader.readexactly(length))
            if head.split()[1] == "201":
                self.accepted.add(body["id"])
                continue
            assert head.split()[1] == "503", head
            assert "content-type: application/problem+json" in head
            self.refused.append((body["type"], head.split("retry-after: ", 1)[1].split("\r\n", 1)[0]))
            self.slowest_refusal_s = max(self.slowest_refusal_s, time.monotonic() - sent)
        writer.close()
        await writer.wait_closed()

    @contextmanager
    def on(self) -> Iterator["Flood"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()


def resident_mib(service: Service) -> float:
    """What the web process has in memory."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.split("VmRSS:", 1)[1].split()[0]) / 1024


def refusals(service: Service) -> float:
    """How many the service has counted."""
    rows = service.http.get("/metrics").text.splitlines()
    return float(next(row for row in rows if row.startswith("requests_shed_total ")).split()[1])


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_kept(serve: Run, database_url: str) -> None:
    with serve(MAX_REQUESTS_IN_HAND="16") as service:
        service.accepted([line()])
        with Flood(service, clients=150).on() as flood:
            wait_until(lambda: len(flood.accepted) > 200 and len(flood.refused) > 200, "some are taken, some are not")
            before = resident_mib(service)
            for path in ("/livez", "/readyz", "/metrics", "/hello") * 3:
                started = time.monotonic()
                assert httpx2.get(f"{service.url}{path}", timeout=20).status_code == 200
                assert time.monotonic() - started < 1
            wait_until(lambda: len(flood.accepted) > 1000 and len(flood.refused) > 1000, "it goes on like that")
            assert resident_mib(service) - before < 30
        assert set(flood.refused) == {("/problems/overloaded", "1")}
        assert flood.slowest_refusal_s < 2  # with 150 clients in this process
        started = time.monotonic()
        last = service.accepted([line()])
        assert time.monotonic() - started < 1
        assert flood.accepted <= stored_ids(database_url)
        assert len(stored_ids(database_url)) == len(flood.accepted) + 2
        assert last["id"] in stored_ids(database_url)
        wait_until(lambda: refusals(service) == len(flood.refused), "all refusals are counted")


def test_reads_that_wait_for_the_database_do_not_keep_claims_out(serve: Run, database_url: str) -> None:
    with serve(MAX_REQUESTS_IN_HAND="8", DATABASE_POOL_SIZE="2") as service, ThreadPoolExecutor(20) as pool:
        service.accepted([line()])
        with locked(database_url, "dead_letter"):
            reads = [pool.submit(httpx2.get, f"{service.url}/dead-letters", timeout=20) for _ in range(20)]
            wait_until(lambda: sum(read.done() for read in reads) >= 8, "some reads are refused")
            for _ in range(10):
                service.accepted([line()])
        refused = [read.result() for read in reads if read.result().status_code != 200]
        assert len(refused) >= 8
        assert {answer.status_code for answer in refused} == {503}
        assert all("retry-after" in answer.headers for answer in refused)


@contextmanager
def locked(database_url: str, table: str) -> Iterator[None]:
    """Nobody else reads this table until the block ends."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(database_url))
    loop.run_until_complete(connection.execute(f"BEGIN; LOCK TABLE {table}"))
    try:
        yield
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def test_a_full_queue_of_lines_refuses_claims_and_nothing_else(serve: Run, database_url: str) -> None:
    with serve(INTAKE_QUEUE_LINES="4") as service:
        service.accepted([line()])
        with Flood(service, clients=40).on() as flood:
            wait_until(lambda: len(flood.accepted) > 100 and len(flood.refused) > 100, "some are taken, some are not")
            for path in ("/claims?limit=1", "/top-provider", "/readyz"):
                assert httpx2.get(f"{service.url}{path}", timeout=20).status_code == 200
        assert {kind for kind, _ in flood.refused} == {"/problems/overloaded"}
        assert flood.accepted <= stored_ids(database_url)
        assert len(stored_ids(database_url)) == len(flood.accepted) + 1
