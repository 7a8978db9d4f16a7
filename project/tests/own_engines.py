"""Engines of a test's own, durable, which it may kill, stall and start again. Used by the flows and by chaos."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from project.engines import launch, postgres, valkey
from project.engines.places import Places
from project.engines.process import Kept
from project.tests.conftest import kept
from project.tests.service import environment, wait_until
from project.tests.supervision import processes_of


@contextmanager
def own_postgres(folder: Path) -> Iterator[tuple[Places, Kept]]:
    """A durable Postgres that a test may kill, with a migrated database."""
    places = Places(folder / "own")
    launch.prepare(places)
    postgres.initialise(places, careless=True)
    with kept(postgres.program(places), lambda: postgres.is_ready(places)) as server:
        postgres.create_database(places)
        yield places, server


@contextmanager
def own_valkey(places: Places) -> Iterator[Kept]:
    """A durable Valkey that a test may kill."""
    launch.prepare(places)
    with kept(valkey.program(places), lambda: valkey.is_ready(places)) as server:
        yield server


def await_end(server: Kept) -> None:
    """Waits until a killed or stopped engine is gone."""
    wait_until(lambda: server.exit_code is not None, f"{server.program.name} has ended")


def restart_valkey(server: Kept, places: Places) -> None:
    """Starts a killed Valkey again, its data loaded."""
    await_end(server)
    server.start()
    wait_until(lambda: valkey.is_ready(places), "Valkey is back")


def migrate_with(database_url: str, folder: Path) -> None:
    """Brings a database up to date in a process of its own, as an operator would."""
    argv = [sys.executable, "-m", "project", "migrate"]
    subprocess.run(argv, env=environment(folder, DATABASE_URL=database_url), check=True, capture_output=True)


def restart(server: Kept, places: Places) -> None:
    """Starts a killed Postgres again; it may take a moment until the last of its old processes is gone."""

    def started() -> bool:
        if server.exit_code is not None:
            postgres.forget_dead_server(places)
            server.start()
        return postgres.is_ready(places)

    wait_until(started, "Postgres is back")


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
