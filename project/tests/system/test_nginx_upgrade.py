"""An upgrade behind a real nginx under load: migrations while the old build serves, then the new one, process by process."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from project.tests.conftest import Run
from project.tests.service import environment, wait_until
from project.tests.system.next_build import VERSION, make_next_build
from project.tests.system.nginx import fronting, two_serving
from project.tests.system.traffic import Traffic, assert_nothing_failed, restart
from project.tests.test_migrations import fetch

pytestmark = pytest.mark.system

ANSWERED_WITHIN_S = 5.0


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
