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
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2

from project.engines.places import DATABASE, Places
from project.tests.service import ROOT, environment, free_port, wait_until
from project.tests.supervision import processes_of

T = TypeVar("T")
FOLDER = ROOT / "var" / "bench"
DELAY_MS = 20
UNLIMITED = {"TOP_PROVIDER_RATE_LIMIT": "100000000/minute", "PYTHONWARNINGS": "default"}
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Stack:
    """A running service and what can be asked about its processes. Made by `running`."""

    def __init__(self, folder: Path, url: str, payments: str, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.payments = payments
        self.places = Places(folder / "var")
        self.settings = settings

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

    def value(self, query: str, name: str = DATABASE) -> Any:
        """The first value of a query."""
        return self.ask(lambda connection: connection.fetchval(query), name)

    def new_database(self, name: str) -> str:
        """A migrated database without rows; its URL."""
        self.ask(lambda connection: connection.execute(f"CREATE DATABASE {name}"), "postgres")
        url = self.database(name)
        subprocess.run(
            [sys.executable, "-m", "project.schema"],
            cwd=ROOT,
            env=environment(self.folder / "var", DATABASE_URL=url),
            check=True,
            capture_output=True,
        )
        return url

    def await_drained(self) -> None:
        """Until all that was accepted is paid and published, and the dirty pages of it are on disk."""
        left = """SELECT EXISTS (SELECT FROM payment WHERE state = 'due')
                      OR EXISTS (SELECT FROM claim_event WHERE published_at IS NULL)"""
        wait_until(lambda: not self.value(left), "the backlog is drained", within_s=1800)
        self.ask(lambda connection: connection.execute("CHECKPOINT"), "postgres")

    def processes(self, word: str) -> list[int]:
        """Of this stack, those with this word in their command line."""
        found = []
        for pid in processes_of(self.folder / "var"):
            try:
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
            except OSError:
                continue
        return found

    def cpu_s(self, *words: str) -> float:
        """Seconds of CPU that the processes with one of these words have used so far, dead children included."""
        return sum(_cpu_s(pid) for word in words for pid in self.processes(word))

    def memory_mib(self, word: str) -> float:
        """What the processes with this word have in memory, at most."""
        return max(_memory_mib(pid) for pid in self.processes(word))

    def signal(self, word: str, number: signal.Signals) -> None:
        """Sends a signal to the processes with this word."""
        for pid in self.processes(word):
            os.kill(pid, number)

    def behave(self, **behaviour: Any) -> None:
        """Tells the stand-in how to."""
        httpx2.put(f"{self.payments}/behaviour", json=behaviour).raise_for_status()

    def answer(self, route: str, body: str | None = None) -> Any:
        """What the service answers to a POST of this body, or to a GET."""
        headers = {"Content-Type": "application/json"}
        answer = httpx2.request("POST" if body else "GET", self.url + route, content=body, headers=headers)
        return answer.raise_for_status().json()


def _cpu_s(pid: int) -> float:
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
    folder.mkdir(parents=True)
    port, payments, metrics = (str(free_port()) for _ in range(3))
    chosen = UNLIMITED | {"PORT": port, "PAYMENTS_PORT": payments, "METRICS_PORT": metrics} | settings
    with process([sys.executable, "-m", "project"], folder, chosen):
        wait_until(lambda: "serving:" in (folder / "log").read_text(), "it serves", within_s=120)
        stack = Stack(folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{payments}", chosen)
        stack.behave(delay_ms=DELAY_MS)
        yield stack
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def process(argv: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log` in its folder; told to end at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            argv, cwd=folder, env=environment(folder / "var", **settings), stdout=log, stderr=log
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(90)


@contextmanager
def serving(module: str, stack: Stack, *arguments: str, **settings: str) -> Iterator[str]:
    """Another server on the stack's engines, `python -m module PORT ARGUMENTS`; its URL."""
    port = str(free_port())
    folder = stack.folder / f"{module}-{port}"
    told = {"PORT": port, "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")} | UNLIMITED | settings
    told |= (
        {"DATABASE_URL": stack.database(), "REDIS_URL": stack.places.redis_url} if "DATABASE_URL" not in told else {}
    )
    with process([sys.executable, "-m", module, *([port] if arguments else []), *arguments], folder, told) as started:

        def answers() -> bool:
            if started.poll() is not None:
                raise RuntimeError(f"{module} ended: {(folder / 'log').read_text()}")
            with suppress(httpx2.TransportError):
                return bool(httpx2.get(f"http://127.0.0.1:{port}/").status_code)
            return False

        wait_until(answers, f"{module} answers")
        yield f"http://127.0.0.1:{port}"


def settle_down() -> None:
    """A moment for the kernel to write out what a side has left behind."""
    os.sync()
    time.sleep(0.2)
