"""The sides of a comparison: the service as `make run` starts it, and others on the same engines.

All of them share one embedded Postgres, as the project itself starts and sets it (fsync and synchronous_commit on), on
a real disk: below `var/` of the checkout. Only one side is at work at a time.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2

from project import audit
from project.engines.places import DATABASE, Places
from project.ids import first_id_at
from project.tests.service import ROOT, environment, free_port, wait_until
from project.tests.supervision import processes_of

T = TypeVar("T")
FOLDER = ROOT / "var" / "bench"
DELAY_MS = 20
EMPTY = "empty"  # a database that is migrated once, and copied
UNLIMITED = {"TOP_PROVIDER_RATE_LIMIT": "100000000/minute", "PYTHONWARNINGS": "default"}
TAIL = 30  # lines of a log that tell why a side broke
LOOK_S = 0.05
DRAINED_WITHIN_S = 1800.0
IDLE_S = 0.1  # ten ticks of the kernel's clock, by which it counts CPU
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Stored:
    """How many claims a side was told are stored."""

    acknowledged = 0


class Stack:
    """A running service and what can be asked about its processes. Made by `running`."""

    def __init__(self, folder: Path, url: str, payments: str) -> None:
        self.folder = folder
        self.url = url
        self.payments = payments
        self.places = Places(folder / "var")
        self._has_empty = False

    def database(self, name: str = DATABASE) -> str:
        """The URL of a database of the engine."""
        parts = urlsplit(self.places.postgres_url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    def ask(self, question: Callable[[Any], Awaitable[T]], name: str = DATABASE) -> T:
        """What `question` makes of a connection."""

        async def asked() -> T:
            connection = await asyncpg.connect(self.database(name))
            try:
                return await question(connection)
            finally:
                await connection.close()

        return asyncio.run(asked())

    def value(self, query: str, *arguments: Any, name: str = DATABASE) -> Any:
        """The first value of a query."""
        return self.ask(lambda connection: connection.fetchval(query, *arguments), name)

    def execute(self, script: str, name: str = DATABASE) -> None:
        """Runs statements, however long they take."""
        self.ask(lambda connection: connection.execute(script), name)

    def new_database(self, name: str) -> str:
        """A migrated database without rows; its URL."""
        if not self._has_empty:
            self.execute(f"CREATE DATABASE {EMPTY}", "postgres")
            subprocess.run(
                [sys.executable, "-m", "project.schema"],
                cwd=ROOT,
                env=environment(self.folder / "var", DATABASE_URL=self.database(EMPTY)),
                check=True,
                capture_output=True,
            )
            self._has_empty = True
        self.execute(f"CREATE DATABASE {name} TEMPLATE {EMPTY}", "postgres")
        return self.database(name)

    @contextmanager
    def stores_all(self, clients: int, name: str = DATABASE) -> Iterator[Stored]:
        """Of each claim that the block says was acknowledged there is a row afterwards, and no more rows than these and
        what the clients had in hand when they left. Raises RuntimeError.
        """
        since, stored = first_id_at(datetime.now(UTC)), Stored()
        yield stored
        found = self.value("SELECT count(*) FROM claim WHERE id >= $1", since, name=name)
        if not stored.acknowledged <= found <= stored.acknowledged + clients:
            raise RuntimeError(f"{name}: {stored.acknowledged} claims were acknowledged, {found} are stored")

    def check_books(self, name: str = DATABASE) -> None:
        """Lines, claims, totals and events add up to the same. Raises RuntimeError."""
        books = self.ask(audit.books, name)
        if books.difference:
            raise RuntimeError(f"{name}: the books are {books.difference} apart: {books}")

    def await_paid(self) -> None:
        """Until nothing that was accepted is due any more."""
        self.ask(partial(_until_none, "SELECT FROM payment WHERE state = 'due'"))

    def await_drained(self) -> None:
        """Until all that was accepted is paid and published, and the dirty pages of it are on disk."""
        self.await_paid()
        self.ask(partial(_until_none, "SELECT FROM claim_event WHERE published_at IS NULL"))
        self.execute("CHECKPOINT", "postgres")

    def processes(self, word: str = "") -> list[int]:
        """Of this stack, those with this word in their command line."""
        found = []
        for pid in processes_of(self.folder / "var"):
            try:
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
            except OSError:
                continue
        return found

    def cpu_s(self, word: str = "") -> float:
        """Seconds of CPU that the processes with this word have used so far, dead children included."""
        return sum(map(cpu_s, self.processes(word)))

    def memory_mib(self, word: str) -> float:
        """What the processes with this word have in memory, at most."""
        return max(_memory_mib(pid) for pid in self.processes(word))

    @contextmanager
    def paused(self, word: str) -> Iterator[None]:
        """The processes with this word stand still."""
        pids = self.processes(word)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def behave(self, **behaviour: Any) -> None:
        """Tells the stand-in how to."""
        httpx2.put(f"{self.payments}/behaviour", json=behaviour).raise_for_status()

    def answer(self, route: str, body: str | None = None, **headers: str) -> Any:
        """What the service answers to a POST of this body, or to a GET."""
        told = {"Content-Type": "application/json", **headers}
        answer = httpx2.request("POST" if body else "GET", self.url + route, content=body, headers=told)
        return answer.raise_for_status().json()


async def _until_none(query: str, connection: Any) -> None:
    """Until a query of a queue's rows gives none; by its index, whatever the statistics say: looking must be cheap."""
    await connection.execute("SET enable_seqscan = off")
    async with asyncio.timeout(DRAINED_WITHIN_S):
        while await connection.fetchval(f"SELECT EXISTS ({query})"):  # noqa: ASYNC110  another process empties it
            await asyncio.sleep(LOOK_S)


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its dead children so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) * _TICK_S


def _memory_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:", 1)[1].split()[0]) / 1024


@contextmanager
def running(name: str = "service", **settings: str) -> Iterator[Stack]:
    """The whole service with fresh engines in a folder of its own, the stand-in answering after DELAY_MS."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    port, payments, metrics = (str(free_port()) for _ in range(3))
    chosen = UNLIMITED | {"PORT": port, "PAYMENTS_PORT": payments, "METRICS_PORT": metrics} | settings
    with process([sys.executable, "-m", "project"], folder, chosen) as started:
        wait_until(lambda: _lives(started) and "serving:" in _log(folder), "it serves", within_s=120)
        stack = Stack(folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{payments}")
        stack.behave(delay_ms=DELAY_MS)
        yield stack
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def process(argv: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log` in its folder; told to end at the end. If the block fails, so much of the
    log is shown that one sees why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            argv, cwd=folder, env=environment(folder / "var", **settings), stdout=log, stderr=log
        )
    try:
        yield started
    except (Exception, SystemExit):
        print(f"--- {' '.join(argv[1:])}: the end of its log:", *_telling(_log(folder).splitlines()), sep="\n")
        raise
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(90)


def _lives(started: subprocess.Popen[bytes]) -> bool:
    if started.poll() is not None:
        raise RuntimeError(f"it ended by itself, with {started.returncode}")
    return True


def _telling(lines: Sequence[str]) -> Sequence[str]:
    """The last lines of a log that are not about requests that were answered; without any, the last at all."""
    return [line for line in lines if '"level":"info"' not in line][-TAIL:] or lines[-3:]


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")


@dataclass(frozen=True)
class Server:
    """A side that serves, and its process."""

    url: str
    pid: int

    def await_idle(self) -> None:
        """Until it has ended what its clients left behind."""
        before = -1.0
        while (now := cpu_s(self.pid)) > before:
            before = now
            time.sleep(IDLE_S)


@contextmanager
def serving(module: str, stack: Stack, *arguments: str, **settings: str) -> Iterator[Server]:
    """Another server on the stack's engines, `python -m module PORT ARGUMENTS`, or one of the service's own without."""
    port = str(free_port())
    folder = stack.folder / f"{module}-{port}"
    told = UNLIMITED | {
        "PORT": port,
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "DATABASE_URL": stack.database(),
        "REDIS_URL": stack.places.redis_url,
    }
    argv = [sys.executable, "-m", module, *((port, *arguments) if arguments else ())]
    with process(argv, folder, told | settings) as started:

        def answers() -> bool:
            _lives(started)
            with suppress(httpx2.TransportError):
                return bool(httpx2.get(f"http://127.0.0.1:{port}/").status_code)
            return False

        wait_until(answers, f"{module} answers")
        yield Server(f"http://127.0.0.1:{port}", started.pid)


def settle_down() -> None:
    """A moment for the kernel to write out what a side has left behind."""
    os.sync()
    time.sleep(0.2)
