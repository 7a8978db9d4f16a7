"""A real pgbouncer before Postgres, with the file's settings, and web over it.

Prepared statements in transaction mode, which web needs, are there since 1.21, and compose has a later one. An older one
is run in session mode: that shows the settings, the start script, the passwords and all that web does, but neither the
sharing of connections nor a restart that waits for transactions alone; those are skipped, and say so.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from project.engines import launch, postgres
from project.engines.process import Kept, Program
from project.tests.conftest import kept
from project.tests.deploy.containers import Container, Stack, running, with_programs
from project.tests.own_engines import restart
from project.tests.service import ROOT, free_port, line, wait_until

pytestmark = pytest.mark.system

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or "pgbouncer"


def version() -> tuple[int, ...]:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


shares_connections = pytest.mark.skipif(
    shutil.which(PROGRAM) is None or version() < (1, 21),
    reason="this pgbouncer knows no prepared statements in transaction mode: it is run in session mode",
)
FEW = 4  # connections of Postgres, for two web processes that have up to 12 of pgbouncer each
RECOVERED_WITHIN_S = 10


def settings(stack: Stack, folder: Path, port: int) -> str:
    """The project's own, for this machine; with few connections, so that they must be shared."""
    text = (ROOT / "deploy/pgbouncer/pgbouncer.ini").read_text()
    for old, new in (
        ("host=postgres port=5432", f"host=127.0.0.1 port={stack.ports['postgres', 5432]}"),
        ("listen_addr = *", "listen_addr = 127.0.0.1"),
        ("listen_port = 6432", f"listen_port = {port}"),
        ("/run/pgbouncer", str(folder)),
        ("default_pool_size = 50", f"default_pool_size = {FEW}"),
        ("max_db_connections = 50", f"max_db_connections = {FEW}"),
    ):
        assert old in text
        text = text.replace(old, new)
    if version() < (1, 21):
        text = text.replace("pool_mode = transaction", "pool_mode = session").replace(f"= {FEW}", "= 50")
        text = re.sub("max_prepared_statements = .*", "", text)
    return text


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as started:
        assert started.container("migrate").run().returncode == 0
        yield started


@pytest.fixture(scope="module")
def pgbouncer(stack: Stack) -> Iterator[Kept]:
    """By its own start script, as a user that is not root."""
    folder = stack.folder / "pgbouncer"
    folder.mkdir()
    launch.give_to_engine(folder)
    port = stack.ports["pgbouncer", 6432] = free_port()
    (folder / "pgbouncer.ini").write_text(settings(stack, folder, port))
    script = (ROOT / "deploy/pgbouncer/start.sh").read_text()
    (folder / "start.sh").write_text(
        script.replace("/run/pgbouncer", str(folder)).replace("/etc/pgbouncer", str(folder))
    )
    program = Program(
        "pgbouncer",
        ["sh", str(folder / "start.sh")],
        before=launch.unprivileged(),
        stop_signal=signal.Signals[stack.file["pgbouncer"]["stop_signal"]],
        env=with_programs(stack.container("pgbouncer").environment, PROGRAM),
        log=folder / "log",
    )
    with kept(program, lambda: is_healthy(stack)) as server:
        yield server


def is_healthy(stack: Stack) -> bool:
    """Its health check."""
    _, *words = stack.file["pgbouncer"].health_test or []
    port = str(stack.ports["pgbouncer", 6432])
    words = [postgres.binary("pg_isready"), *(port if word == "6432" else word for word in words[1:])]
    return subprocess.run(words, check=False, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def webs(stack: Stack, pgbouncer: Kept) -> Iterator[list[Container]]:
    started = [stack.container(name) for name in ("web", "web", "payments", "worker")]
    for container in started:
        container.start()
    for container in started:
        container.await_health()
    yield started[:2]
    for container in reversed(started):
        container.stop()


def takes_claims(stack: Stack, web: Container) -> bool:
    with web.client(stack.api_key("admin")) as http:
        return http.post("/claims", json=[line()]).status_code == 201


def test_everything_that_web_does_goes_over_pgbouncer(stack: Stack, webs: list[Container]) -> None:
    key = stack.api_key("admin")
    for number, web in enumerate(webs):
        with web.client(key) as http:
            headers = {"Idempotency-Key": f"over-pgbouncer-{number}"}
            answers = [http.post("/claims", json=[line()], headers=headers) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [201] * 3, answers[0].text
            assert len({answer.json()["id"] for answer in answers}) == 1
            events = f"{answers[0].headers['Location']}/events"
            wait_until(lambda: http.get(events).json()["items"][-1]["type"] == "claim.paid", "the claim is paid")  # noqa: B023
            for path in (
                "/claims?provider_npi=1497775530",
                "/top-provider",
                "/dead-letters",
                answers[0].headers["Location"],
            ):
                assert http.get(path).status_code == 200, path


@shares_connections
def test_few_connections_of_postgres_serve_many_of_web(stack: Stack, webs: list[Container]) -> None:
    key = stack.api_key("admin")

    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda number: _ask_often(webs[number % 2], key), range(16))
        assert set().union(*answers) == {200, 201}
    assert 0 < connections(stack) <= FEW


def _ask_often(web: Container, key: str) -> set[int]:
    with web.client(key) as http:
        return {
            answer.status_code
            for _ in range(20)
            for answer in (http.post("/claims", json=[line()]), http.get("/claims?limit=5"))
        }


def connections(stack: Stack) -> int:
    """How many pgbouncer has of Postgres, by its own console."""
    told = {
        "PGPASSWORD": stack.secret("database/password"),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.ports["pgbouncer", 6432]),
    }
    words = [postgres.binary("psql"), "-U", "app", "-d", "pgbouncer", "-XAt", "-c", "SHOW SERVERS"]
    shown = subprocess.run(words, env=told, capture_output=True, text=True, check=True, timeout=30).stdout
    return len(shown.splitlines())


def test_a_wrong_password_is_refused_by_pgbouncer_itself(stack: Stack, pgbouncer: Kept) -> None:
    async def guess() -> None:
        await asyncpg.connect(
            host="127.0.0.1", port=stack.ports["pgbouncer", 6432], user="app", database="claims", password="guess"
        )

    with pytest.raises(asyncpg.PostgresError, match=r"(SASL|password) authentication failed"):
        asyncio.run(guess())


@shares_connections
def test_web_serves_again_after_pgbouncer_was_restarted_under_it(
    stack: Stack, webs: list[Container], pgbouncer: Kept
) -> None:
    pgbouncer.ask_to_stop()
    pgbouncer.wait_stopped(stack.file["pgbouncer"].stop_grace_s)
    assert pgbouncer.exit_code == 0
    assert webs[0].health() == 1
    pgbouncer.start()
    for web in webs:
        wait_until(lambda: takes_claims(stack, web), "claims are taken again", RECOVERED_WITHIN_S)  # noqa: B023
        wait_until(lambda: web.health() == 0, "web is ready again", RECOVERED_WITHIN_S)  # noqa: B023


@shares_connections
def test_web_serves_again_after_postgres_was_killed_behind_it(stack: Stack, webs: list[Container]) -> None:
    assert stack.postgres is not None
    places, server = stack.postgres
    os.kill(server.pid, signal.SIGKILL)
    with webs[0].client(stack.api_key("admin")) as http:
        answer = http.post("/claims", json=[line()])
        assert answer.status_code == 503
        assert answer.elapsed.total_seconds() < 5
        assert "Retry-After" in answer.headers
    restart(server, places)
    for web in webs:
        wait_until(lambda: takes_claims(stack, web), "claims are taken again", RECOVERED_WITHIN_S)  # noqa: B023
        wait_until(lambda: web.health() == 0, "web is ready again", RECOVERED_WITHIN_S)  # noqa: B023
