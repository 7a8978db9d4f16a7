"""Web processes behind a real nginx are restarted, migrated and killed under load: what fails, and what does not."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from project.tests.conftest import Run
from project.tests.load import stored_ids
from project.tests.service import Service, environment, wait_until
from project.tests.system.next_build import VERSION, make_next_build
from project.tests.system.nginx import address_of, fronting, two_serving
from project.tests.system.traffic import Traffic
from project.tests.test_migrations import fetch

pytestmark = pytest.mark.system

ANSWERED_WITHIN_S = 5.0


def restart(service: Service, **changes: str) -> None:
    """As documented: SIGTERM, its end within the grace, another on the same port, ready."""
    assert service.stop() in (0, -signal.SIGTERM)
    service.start_again(**changes)


def assert_nothing_failed(traffic: Traffic, database_url: str) -> None:
    """And each claim that was acknowledged is there, once, and no other."""
    assert traffic.failed == []
    assert len(set(traffic.accepted)) == len(traffic.accepted)
    assert set(traffic.accepted) == stored_ids(database_url)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_restart_of_all_web_processes_fails_no_request(
    serve: Run, database_url: str, tmp_path: Path, processes: str
) -> None:
    with (
        two_serving(serve, database_url, WEB_WORKERS=processes) as pair,
        fronting(tmp_path, pair.addresses) as nginx,
        Traffic(nginx, pair.key).on() as traffic,
    ):
        for service in pair.services * 2:
            restart(service)
            traffic.await_more()
    assert_nothing_failed(traffic, database_url)


def test_an_upgrade_with_migrations_behind_a_long_reader_fails_no_request(
    serve: Run, database_url: str, tmp_path: Path
) -> None:
    build = make_next_build(tmp_path / "next")
    with (
        two_serving(serve, database_url) as pair,
        fronting(tmp_path / "nginx", pair.addresses) as nginx,
        Traffic(nginx, pair.key).on() as traffic,
    ):
        migrate_behind_a_reader(build, database_url, traffic)
        for service in pair.services:
            restart(service, PYTHONPATH=str(build))
            traffic.await_more()
        with nginx.client() as anybody:
            versions = {anybody.get("/openapi.json").json()["info"]["version"] for _ in range(8)}
    assert versions == {VERSION}
    assert traffic.slowest < ANSWERED_WITHIN_S
    assert_nothing_failed(traffic, database_url)


def migrate_behind_a_reader(build: Path, database_url: str, traffic: Traffic) -> None:
    """Runs the build's migrations; for the first two tries somebody reads `claim` in a transaction that stays open."""
    log = build / "log"
    surroundings = environment(build, DATABASE_URL=database_url) | {"PYTHONPATH": str(build)}
    with reading_for_long(database_url), log.open("wb") as output:
        argv = [sys.executable, "-m", "project", "migrate"]
        migration = subprocess.Popen(argv, env=surroundings, cwd=build, stdout=output, stderr=output)
        wait_until(lambda: log.read_text().count("migration_waits_for_a_lock") >= 2, "it waits for the reader")
        traffic.await_more()
    assert migration.wait(60) == 0, log.read_text()
    [valid] = fetch(database_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_claim_note'::regclass")
    assert valid


@contextmanager
def reading_for_long(database_url: str) -> Iterator[None]:
    """A transaction that has read `claim`, and stays open until the block ends."""
    with asyncio.Runner() as runner:
        reader = runner.run(asyncpg.connect(database_url))
        runner.run(reader.execute("BEGIN; SELECT count(*) FROM claim"))
        yield
        runner.run(reader.execute("ROLLBACK"))
        runner.run(reader.close())


def test_of_a_killed_process_just_the_claims_in_its_hands_fail_and_say_that_their_outcome_is_unknown(
    serve: Run, database_url: str, tmp_path: Path
) -> None:
    with two_serving(serve, database_url) as pair, fronting(tmp_path, pair.addresses) as nginx:
        killed = pair.services[0]
        posting = 6
        with Traffic(nginx, pair.key, posting=posting).on() as traffic:
            killed.kill()
            traffic.await_more(300)
            killed.start_again()
            traffic.await_more(300)
        rows = [row for row in nginx.log() if row["status"] not in (200, 201)]
    address = address_of(killed)
    assert {(row["method"], row["status"], row["upstream_addr"]) for row in rows} <= {("POST", 502, address)}
    assert len(traffic.failed) == len(rows) <= posting
    for failure in traffic.failed:
        assert not isinstance(failure, Exception), failure
        assert failure.json()["type"] == "/problems/outcome-unknown"
        assert failure.headers["content-type"] == "application/problem+json"
    stored = stored_ids(database_url)
    assert set(traffic.accepted) <= stored
    assert len(stored) - len(traffic.accepted) <= len(rows)
