"""Nothing acknowledged is lost: processes are killed, stopped and cut off while claims come in."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from project.engines import launch, postgres
from project.engines.places import Places
from project.engines.process import Kept
from project.tests.conftest import Run, kept
from project.tests.service import Service, environment, line, running, wait_until
from project.tests.supervision import processes_of


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

    def __init__(self, url: str, clients: int = 8) -> None:
        self.answers: list[httpx2.Response] = []
        self.broken = 0
        self._url = url
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._post) for _ in range(clients)]

    def _post(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(client.post("/claims", json=[line(provider_fees=101), line()]))
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


def test_sigterm_under_load_cuts_no_request_and_loses_nothing(serve: Run, database_url: str) -> None:
    with serve(WEB_WORKERS="2") as service:
        with Load(service.url).on() as load:
            wait_until(lambda: len(load.answers) > 200, "claims are coming in")
            assert service.stop() == 0
        assert {answer.status_code for answer in load.answers} == {201}
        assert load.accepted() == stored_ids(database_url)
        assert "Traceback" not in service.log.read_text()


def test_web_killed_under_load_loses_nothing_acknowledged(serve: Run, database_url: str) -> None:
    with serve() as service:
        with Load(service.url).on() as load:
            wait_until(lambda: len(load.answers) > 200, "claims are coming in")
            service.process.kill()
            service.process.wait()
        assert load.accepted() <= stored_ids(database_url)
        assert len(stored_ids(database_url) - load.accepted()) <= 8  # answers that were on their way


def test_workers_do_not_outlive_their_killed_parent(serve: Run) -> None:
    with serve(WEB_WORKERS="2") as service:
        folder = service.log.parent
        assert len(processes_of(folder)) >= 3
        service.process.kill()  # the second worker may be still at its start, which is the hard case
        service.process.wait()
        wait_until(lambda: processes_of(folder) == [], "no process is left")


@contextmanager
def own_postgres(folder: Path) -> Iterator[tuple[Places, Kept]]:
    """A durable Postgres that a test may kill, with a migrated database."""
    places = Places(folder / "own")
    launch.prepare(places)
    postgres.initialise(places, careless=True)
    with kept(postgres.program(places), lambda: postgres.is_ready(places)) as server:
        postgres.create_database(places)
        yield places, server


def test_postgres_killed_under_load_is_503_then_service_again_and_nothing_lost(redis_url: str, tmp_path: Path) -> None:
    with own_postgres(tmp_path) as (places, server):
        url = places.postgres_url
        migrate_with(url, tmp_path)
        with running(tmp_path / "web", {"DATABASE_URL": url, "REDIS_URL": redis_url}) as service:
            with Load(service.url).on() as load:
                wait_until(lambda: len(load.answers) > 200, "claims are coming in")
                os.kill(server.pid, signal.SIGKILL)
                wait_until(lambda: any(answer.status_code == 503 for answer in load.answers), "the first 503")
                assert reads_are_503(service)
                restart(server, places)
                before = len(load.accepted())
                wait_until(lambda: len(load.accepted()) > before + 200, "claims are coming in again")
            refused = [answer for answer in load.answers if answer.status_code != 201]
            assert {answer.status_code for answer in refused} == {503}
            assert all("retry-after" in answer.headers for answer in refused)
            assert load.broken == 0
            unknown = {
                answer.json()["id"] for answer in refused if answer.json()["type"] == "/problems/outcome-unknown"
            }
            assert load.accepted() <= stored_ids(url) <= load.accepted() | unknown
            assert "Traceback" not in service.log.read_text()


def test_a_postgres_that_hangs_is_503_and_what_was_refused_is_not_stored(redis_url: str, tmp_path: Path) -> None:
    with own_postgres(tmp_path) as (places, server):
        migrate_with(places.postgres_url, tmp_path)
        urls = {"DATABASE_URL": places.postgres_url, "REDIS_URL": redis_url}
        with running(tmp_path / "web", urls) as service, stalled(server, places) as hanging:
            claim = service.accepted([line()])
            for path in ("/claims", f"/claims/{claim['id']}", "/top-provider"):
                assert service.http.get(path).status_code == 200
            hanging.set()
            for path in ("/claims", f"/claims/{claim['id']}", f"/claims/{claim['id']}/events", "/readyz"):
                assert service.http.get(path).status_code == 503
            refused = service.submit([line()])
            assert refused.status_code == 503
            hanging.clear()
            later = service.accepted([line()])
            unknown = {refused.json().get("id")} - {None}
            assert {claim["id"], later["id"]} <= stored_ids(places.postgres_url) <= {claim["id"], later["id"]} | unknown


@contextmanager
def stalled(server: Kept, places: Places) -> Iterator["Stall"]:
    """A switch that stops all processes of a Postgres, and lets them go on at the end."""
    stall = Stall(server, places)
    try:
        yield stall
    finally:
        stall.clear()


class Stall:
    """Set: the server and its sessions take no step. Clear: they go on."""

    def __init__(self, server: Kept, places: Places) -> None:
        self._server = server
        self._places = places

    def set(self) -> None:
        for pid in processes_of(self._places.postgres):
            os.kill(pid, signal.SIGSTOP)

    def clear(self) -> None:
        for pid in processes_of(self._places.postgres):
            os.kill(pid, signal.SIGCONT)


def migrate_with(database_url: str, folder: Path) -> None:
    """Brings a database up to date in a process of its own, as an operator would."""
    argv = [sys.executable, "-m", "project", "migrate"]
    subprocess.run(argv, env=environment(folder, DATABASE_URL=database_url), check=True, capture_output=True)


def reads_are_503(service: Service) -> bool:
    """Whether the reads say that the database is away, too."""
    return all(service.http.get(path).status_code == 503 for path in ("/claims", "/readyz"))


def restart(server: Kept, places: Places) -> None:
    """Starts a killed Postgres again; it may take a moment until the last of its old processes is gone."""

    def started() -> bool:
        if server.exit_code is not None:
            postgres.forget_dead_server(places)
            server.start()
        return postgres.is_ready(places)

    wait_until(started, "Postgres is back")


def test_one_key_200_times_at_once_over_two_processes_makes_one_claim(serve: Run, database_url: str) -> None:
    with serve() as one, serve() as other, ThreadPoolExecutor(50) as pool:
        urls = [f"{service.url}/claims" for service in (one, other)] * 100

        def post(url: str) -> Any:
            return httpx2.post(url, json=[line()], headers={"Idempotency-Key": "once"}, timeout=20)

        answers = list(pool.map(post, urls))
        codes = [answer.status_code for answer in answers]
        assert set(codes) <= {201, 409}
        made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
        assert len(made) == 1
        assert stored_ids(database_url) == made
        first = [
            answer for answer in answers if answer.status_code == 201 and "idempotent-replayed" not in answer.headers
        ]
        assert len(first) == 1
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 409)


def test_valkey_away_leaves_intake_and_ranking_alone(database_url: str, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    with running(tmp_path / "web", {"DATABASE_URL": database_url, "REDIS_URL": nowhere}) as service:
        claim = service.accepted([line(provider_fees=101)])
        assert service.http.get("/readyz").status_code == 200
        assert service.http.get("/top-provider").json() == [{"provider_npi": "1497775530", "net_fee": 1.00}]
        assert stored_ids(database_url) == {claim["id"]}
