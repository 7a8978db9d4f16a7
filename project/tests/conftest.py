"""Fixtures: one private Postgres and Valkey for the whole run, a fresh database and an empty Redis for each test."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import asyncpg
import pytest
import redis

from project.engines import launch, postgres, valkey
from project.engines.places import DATABASE, VALKEY_SOCKET, Places
from project.engines.process import Kept, Program
from project.tests.saga import Saga, performing
from project.tests.service import Service, environment, running, wait_until

_numbers = itertools.count(1)
VALKEY_DATABASES = 16
LONG = {"flows", "test_nginx_restart.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take long come first, so that no test process has one left to do when the others are through."""
    items.sort(key=lambda item: (not LONG.isdisjoint(item.path.parts), item.path), reverse=True)


@contextmanager
def kept(program: Program, ready: Callable[[], bool]) -> Iterator[Kept]:
    """The program, running and ready; stopped at the end. It is on a leash, so it never outlives the tests."""
    process = Kept(program)
    process.start()
    try:
        wait_until(ready, f"{program.name} is ready")
        yield process
    finally:
        process.ask_to_stop()
        process.wait_stopped(20)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The engines of this run."""
    made = Places(tmp_path_factory.mktemp("engines"))
    launch.prepare(made)
    postgres.initialise(made, careless=True)
    with (
        kept(postgres.program(made, careless=True), lambda: postgres.is_ready(made)),
        kept(valkey.program(made, careless=True), lambda: valkey.is_ready(made)),
    ):
        postgres.create_database(made)
        yield made


def execute(places: Places, statement: str) -> None:
    """Runs a statement in the database that nobody's test uses."""

    async def run() -> None:
        connection = await asyncpg.connect(places.postgres_url.replace(f"/{DATABASE}?", "/postgres?"))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def template(places: Places) -> Places:
    """The engines, with a migrated database to copy."""
    argv = [sys.executable, "-m", "project.schema"]
    subprocess.run(
        argv, env=environment(places.data, DATABASE_URL=places.postgres_url), check=True, capture_output=True
    )
    return places


@contextmanager
def new_database(places: Places, template: str) -> Iterator[str]:
    """A copy of the database of that name, which nobody may be connected to; gone at the end."""
    name = f"test{next(_numbers)}"
    execute(places, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield places.postgres_url.replace(f"/{DATABASE}?", f"/{name}?")
    execute(places, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(template: Places) -> Iterator[str]:
    """A migrated database without rows, for one test."""
    with new_database(template, DATABASE) as url:
        yield url


@pytest.fixture
def empty_database_url(places: Places) -> Iterator[str]:
    """A database without tables, for one test."""
    with new_database(places, "template0") as url:
        yield url


def _empty_redis(places: Places) -> str:
    number = next(_numbers) % VALKEY_DATABASES
    with redis.Redis(unix_socket_path=str(places.sockets / VALKEY_SOCKET), db=number) as client:
        client.flushdb()
    return f"{places.redis_url}?db={number}"


@pytest.fixture
def redis_url(places: Places) -> str:
    """An empty Redis database, for one test."""
    return _empty_redis(places)


@pytest.fixture(scope="module")
def shared_database_url(template: Places) -> Iterator[str]:
    """A migrated database that the tests of a module share."""
    with new_database(template, DATABASE) as url:
        yield url


@pytest.fixture(scope="module")
def shared_redis_url(places: Places) -> str:
    """An empty Redis database that the tests of a module share."""
    return _empty_redis(places)


Run = Callable[..., AbstractContextManager[Service]]


@pytest.fixture
def serve(database_url: str, redis_url: str, tmp_path: Path) -> Run:
    """Starts web services on this test's database and Redis: `with serve(WEB_WORKERS="2") as service`."""
    folders = itertools.count(1)

    def start(**settings: str) -> AbstractContextManager[Service]:
        urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url} | settings
        return running(tmp_path / f"web{next(folders)}", urls)

    return start


@pytest.fixture(scope="module")
def service(
    shared_database_url: str, shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A web service with a database and a Redis of its own, shared by the tests of a module."""
    settings = {
        "DATABASE_URL": shared_database_url,
        "REDIS_URL": shared_redis_url,
        "TOP_PROVIDER_RATE_LIMIT": "1000000/minute",
    }
    with running(tmp_path_factory.mktemp("web"), settings) as started:
        yield started


@pytest.fixture
def saga(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Saga]:
    """A stand-in payments service over this test's database; a test starts the workers that it wants."""
    with performing(tmp_path / "saga", database_url, redis_url) as started:
        yield started
