"""The disk is full: writes are 503 and nothing is torn; once there is space again all goes on by itself."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2

from project.engines import launch, postgres
from project.engines.places import Places
from project.tests.load import Load, stored_ids
from project.tests.service import environment, free_port, wait_until
from project.tests.small_disk import SmallDisk, small_disk
from project.tests.supervision import Supervisor, supervising

DISK_MIB = 128
LINES = 300  # a claim must need room, or it finds some in pages that are there already
WITHIN_S = 60.0


@dataclass(frozen=True)
class Run:
    """The whole service as `make run` starts it, a part of its database on a small disk."""

    disk: SmallDisk
    supervisor: Supervisor
    places: Places
    http: httpx2.Client

    def is_settled(self) -> bool:
        """Whether every claim is paid."""

        async def ask() -> bool:
            connection = await asyncpg.connect(self.places.postgres_url)
            try:
                return not await connection.fetchval("SELECT count(*) FROM payment WHERE state <> 'paid'")
            finally:
                await connection.close()

        return asyncio.run(ask())

    def doctor(self) -> subprocess.CompletedProcess[str]:
        """What the operator's command says."""
        told = self.supervisor.await_line("a stand-in pays, at ")
        payments_url = told.split("at ", 1)[1].split()[0]
        argv = [sys.executable, "-m", "project", "doctor"]
        settings = environment(self.places.data, PAYMENTS_URL=payments_url)
        return subprocess.run(argv, env=settings, capture_output=True, text=True, check=False)


@contextmanager
def run_with(part: str, folder: Path) -> Iterator[Run]:
    """With this part of the database's folder on the small disk."""
    places = Places(folder / "var")
    launch.prepare(places)
    postgres.initialise(places, careless=True)
    with small_disk(folder / "small", DISK_MIB) as disk:
        disk.take(places.postgres / part)
        port = free_port()
        argv = [*disk.inside, sys.executable, "-m", "project"]
        with (
            supervising(places.data, argv, port) as supervisor,
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
        ):
            supervisor.await_line("serving:")
            yield Run(disk, supervisor, places, http)


@contextmanager
def filled(run: Run) -> Iterator[Load]:
    """Under load the disk is full, until the block ends; then claims come in again, and the load ends."""
    with Load(str(run.http.base_url), clients=4, lines=LINES).on() as load:
        wait_until(load.accepted, "claims are coming in")
        run.disk.fill()
        wait_until(lambda: any(answer.status_code == 503 for answer in load.answers), "the first 503", WITHIN_S)
        yield load
        run.disk.free()
        before = len(load.accepted())
        wait_until(lambda: len(load.accepted()) > before + 10, "claims are coming in again", WITHIN_S)


def assert_nothing_is_lost_or_torn(run: Run, load: Load) -> None:
    refused = [answer for answer in load.answers if answer.status_code != 201]
    assert {answer.status_code for answer in refused} == {503}
    assert all("retry-after" in answer.headers for answer in refused)
    assert load.broken == 0
    unknown = {answer.json()["id"] for answer in refused if answer.json()["type"] == "/problems/outcome-unknown"}
    assert load.accepted() <= stored_ids(run.places.postgres_url) <= load.accepted() | unknown
    wait_until(run.is_settled, "every claim is paid")
    assert run.doctor().returncode == 0, run.doctor().stdout


def assert_it_was_told_briefly(run: Run) -> None:
    """No traceback; of each part one line when the database goes, and one when it is back."""
    lines = run.supervisor.lines
    assert not any("Traceback" in told for told in lines)
    assert not any(f"{name} ended" in told for told in lines for name in ("web", "worker"))
    of_requests = '"request_id"'
    away = [told for told in lines if '"database_away"' in told and of_requests not in told]
    back = [told for told in lines if '"database_back"' in told]
    assert len(away) <= len(back), away
    assert sum('"commit_lookup_failed"' in told for told in lines) <= sum('"commit_lost"' in told for told in lines)


def test_data_files_that_cannot_grow_refuse_claims_but_no_reads(tmp_path: Path) -> None:
    with run_with("base", tmp_path) as run:
        with filled(run) as load:
            [claim, *_] = load.accepted()
            for path in ("/claims", f"/claims/{claim}", f"/claims/{claim}/events", "/top-provider", "/readyz"):
                assert run.http.get(path).status_code == 200
        assert_nothing_is_lost_or_torn(run, load)
        assert_it_was_told_briefly(run)


def test_a_log_that_cannot_grow_stops_postgres_until_there_is_room(tmp_path: Path) -> None:
    """Postgres ends itself and cannot recover without room; the supervisor starts it again and again."""
    with run_with("pg_wal", tmp_path) as run:
        with filled(run) as load:
            run.supervisor.await_line("Postgres ended with")
            for path in ("/claims", "/top-provider", "/readyz"):
                answer = run.http.get(path)
                assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
                assert "retry-after" in answer.headers
        assert_nothing_is_lost_or_torn(run, load)
        assert_it_was_told_briefly(run)
