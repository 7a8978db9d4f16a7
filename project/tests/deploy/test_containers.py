"""Each container of ours run as a process, with its words, its environment, its secrets and its health check."""

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from project.engines import postgres
from project.tests.deploy.containers import Container, Stack, running, with_programs
from project.tests.service import line, wait_until

# uvicorn finishes its work and then ends by the signal that it was sent; under an init that is 143.
ENDED = (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The profile `demo`, migrated."""
    with running(tmp_path_factory.mktemp("stack")) as started:
        migrated = started.container("migrate").run()
        assert migrated.returncode == 0, migrated.stderr
        assert "2 of 2 API keys are new" in migrated.stdout
        yield started


@pytest.fixture(scope="module")
def ours(stack: Stack) -> Iterator[list[Container]]:
    """Payments, two of web, and a worker, all healthy."""
    started = [stack.container(name) for name in ("payments", "web", "web", "worker")]
    for container in started:
        container.start()
    for container in started:
        container.await_health()
    yield started
    for container in started:
        if container.process and container.process.poll() is None:
            assert container.stop() in ENDED, container.log.read_text()


def as_app(stack: Stack, question: str) -> object:
    """What the database answers the role that web and workers are."""

    async def ask() -> object:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=stack.ports["postgres", 5432],
            user="app",
            database="claims",
            password=stack.secret("database/password"),
        )
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_a_claim_is_taken_by_either_web_and_paid(stack: Stack, ours: list[Container]) -> None:
    _, *webs, _ = ours
    admin = stack.api_key("admin")
    for web in webs:
        with web.client(admin) as http:
            answer = http.post("/claims", json=[line()])
            assert answer.status_code == 201, answer.text
            events = f"{answer.headers['Location']}/events"
            wait_until(lambda: http.get(events).json()["items"][-1]["type"] == "claim.paid", "the claim is paid")  # noqa: B023


def test_without_a_payments_service_claims_wait_and_are_paid_once_there_is_one(tmp_path: Path) -> None:
    """As after the first `docker-compose up`, without the profile `demo`: nothing is given up."""
    with running(tmp_path) as fresh:
        assert fresh.container("migrate").run().returncode == 0
        web, worker, payments = (fresh.container(name) for name in ("web", "worker", "payments"))
        for container in (web, worker):
            container.start()
            container.await_health()
        with web.client(fresh.api_key("admin")) as http, worker.client(fresh.api_key("prometheus")) as metrics:
            events = f"{http.post('/claims', json=[line()]).headers['Location']}/events"
            wait_until(lambda: "payments_breaker_open" in worker.log.read_text(), "the worker has asked in vain")
            wait_until(lambda: "oldest_unpaid_claim_seconds" in metrics.get("/metrics").text, "the worker leads")
            attempts = re.findall(r"^payment_attempts_total.* (\d)", metrics.get("/metrics").text, re.MULTILINE)
            assert attempts == ["0"] * 4
            assert [one["type"] for one in http.get(events).json()["items"]] == ["claim.accepted"]
            payments.start()
            wait_until(lambda: http.get(events).json()["items"][-1]["type"] == "claim.paid", "the claim is paid")


def test_nobody_is_let_in_without_a_key_and_prometheus_key_reads_metrics_alone(
    stack: Stack, ours: list[Container]
) -> None:
    _, web, _, worker = ours
    metrics_key = (stack.volume("secret-metrics") / "metrics_key").read_text()
    assert metrics_key == stack.api_key("prometheus")
    for container in (web, worker):
        with container.client() as stranger, container.client(metrics_key) as prometheus:
            assert stranger.get("/metrics").status_code == 401
            assert prometheus.get("/metrics").status_code == 200
    with web.client(metrics_key) as prometheus:
        assert prometheus.get("/claims").status_code == 403


def test_an_operator_makes_a_key_in_the_running_worker(stack: Stack, ours: list[Container]) -> None:
    worker = ours[-1]
    words = ["python", "-m", "project", "keys", "create", "clinic-a", "--scope", "claims:write", "--json"]
    made = subprocess.run(
        words, env=worker.environment, cwd=stack.image.app, capture_output=True, text=True, check=True
    )
    with ours[1].client(json.loads(made.stdout)["key"]) as clinic:
        wait_until(lambda: clinic.post("/claims", json=[line()]).status_code == 201, "the new key is in force")


def test_migrating_again_changes_nothing(stack: Stack) -> None:
    again = stack.container("migrate").run()
    assert (again.returncode, again.stderr) == (0, "")
    assert "0 of 2 API keys are new" in again.stdout


def test_the_role_of_web_and_workers_owns_its_database_and_nothing_else(stack: Stack) -> None:
    assert as_app(stack, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'claims'") == "app"
    rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles"
    assert as_app(stack, f"{rights} WHERE rolname = current_user") is False


def test_postgres_is_reached_with_its_password_alone_and_set_as_the_file_says(stack: Stack) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(
            asyncpg.connect(
                host="127.0.0.1", port=stack.ports["postgres", 5432], user="app", database="claims", password="guess"
            )
        )
    for option in stack.file["postgres"]["command"][1:]:
        name, _, value = option.removeprefix("-c").partition("=")
        assert as_app(stack, f"SHOW {name}") == value
    assert as_app(stack, "SHOW data_checksums") == "on"


def test_the_health_check_of_postgres_holds_for_a_server_by_tcp(stack: Stack) -> None:
    container = stack.container("postgres")
    kind, script = container.service.health_test or ["", ""]
    assert kind == "CMD-SHELL"
    told = with_programs(container.environment, postgres.binary("psql"))

    def health(port: int, words: str) -> int:
        argv = ["sh", "-c", words]
        return subprocess.run(argv, env=told | {"PGPORT": str(port)}, check=False, timeout=30).returncode

    assert health(stack.ports["postgres", 5432], script) == 0
    assert health(1, script) == 2
    assert health(stack.ports["postgres", 5432], script.replace("claims", "half_made")) == 2


def test_valkey_wants_its_password_and_no_list_of_processes_shows_it(stack: Stack) -> None:
    password = (stack.volume("secret-redis") / "password").read_text()
    port = stack.ports["valkey", 6379]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(64).startswith(b"-NOAUTH")
    with redis.Redis(port=port, password=password) as known:
        assert known.config_get("appendonly") == {"appendonly": "yes"}
        assert known.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        process = known.info("server")["process_id"]
    assert password.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()


def test_no_secret_is_in_an_environment_or_a_log(stack: Stack, ours: list[Container]) -> None:
    values = [file.read_text() for file in (stack.folder / "volumes").glob("secret-*/*") if file.name != "api_keys"] + [
        stack.api_key("admin")
    ]
    assert len(values) == 7
    for container in ours:
        text = container.log.read_text() + json.dumps(container.environment)
        assert [value for value in values if value in text] == []


def test_what_a_container_writes_it_writes_into_its_mounts(stack: Stack, ours: list[Container]) -> None:
    """The root of each is read-only; here the image's own files are what is left as it was."""
    before = {path for path in stack.image.app.rglob("*") if path.is_file()}
    worker = ours[-1]
    words = ["python", "-m", "project", "doctor"]
    subprocess.run(words, env=worker.environment, cwd=stack.image.app, capture_output=True, check=True)
    after = {path for path in stack.image.app.rglob("*") if path.is_file()}
    assert after == before
    assert {path for path in after if "__pycache__" in path.parts or path.suffix == ".pyc"} == set()
    for container in ours:
        written = {path.relative_to(container.root).parts[0] for path in container.root.rglob("*") if path.is_file()}
        assert written <= {"log", "tmp", "data", "run"}


def test_a_health_check_fails_once_its_process_has_gone_and_each_ends_in_order(ours: list[Container]) -> None:
    """Last: it stops them all, as compose does, those that wait for others first."""
    for container in reversed(ours):
        assert container.health() == 0
        assert container.stop() in ENDED, container.log.read_text()
        container.process = None
        assert container.health() == 1
