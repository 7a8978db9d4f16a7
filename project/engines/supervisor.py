"""`make run`: starts the engines, migrates, starts the service's processes, keeps all of them, stops all of them.

Called by `cli`. One loop in the main thread, woken by signals; no threads, since a process is told of the death of
the thread that started it. What dies is started again: after 0.2 s, doubling to 10 s, from the start again once it
has lived 10 s. Engines stop last, so that the service can finish what it has in hand.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from project.engines import launch, postgres, valkey
from project.engines.places import Places
from project.engines.process import Kept, Program
from project.errors import EngineError
from project.settings import Settings

ENGINE_READY_WITHIN_S = 60.0
CHILD_READY_WITHIN_S = 60.0
CHILD_GRACE_S = 35.0  # a little more than the web processes give the requests in hand
ENGINE_GRACE_S = 30.0
DYING_ENGINES_S = 20.0  # how long engines of a killed supervisor may take to go
POLL_S = 0.02
# A probe asks our own child over loopback and tells it nothing, so it need not know whose certificate that has.
_UNVERIFIED = ssl._create_unverified_context()  # noqa: S323


@dataclass(frozen=True)
class Child:
    """A process of the service: its words, and the URL that answers 200 once it serves (None: it does not listen).

    `port_setting` names what to change when its port is taken. One that `serves_others` is stopped after them.
    """

    name: str
    argv: Sequence[str]
    ready_url: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    port_setting: str = "PORT"
    serves_others: bool = False


class _Stopped(Exception):
    """A signal asked to stop."""


def say(line: str) -> None:
    """One line for the person at the terminal; if there is no terminal any more, for nobody."""
    with suppress(OSError):
        sys.stdout.write(f"claim_process: {line}\n")
        sys.stdout.flush()


def run(settings: Settings, children: Sequence[Child], serving: str) -> int:
    """Runs everything until SIGINT, SIGTERM or SIGHUP, then stops it; the exit code.

    `serving` is said once all children serve. Raises EngineError, one line for a person, when something cannot be
    started; by then all that was started is stopped again.
    """
    return _Supervisor(settings, children).run(serving)


class _Supervisor:
    def __init__(self, settings: Settings, children: Sequence[Child]) -> None:
        self._settings = settings
        self._children = children
        self._places = Places(settings.storage.data_dir)
        self._engines: list[Kept] = []
        self._services: list[Kept] = []
        self._stopping = False
        self._wake = _signal_pipe(self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True

    def run(self, serving: str) -> int:
        try:
            _check_ports(self._children)
            launch.prepare(self._places)
            lock = _take_lock(self._places, self._pause)
            self._start_children()  # first, since they take longest; until there is a database they answer 503
            if self._start_engines(lock):
                self._migrate()
            self._await_children()
            say(serving)
            self._keep()
        except _Stopped:
            pass
        finally:
            self._stop()
        say("stopped")
        return 0

    def _pause(self, seconds: float) -> None:
        """Waits, shorter if a process ends or a signal comes; raises _Stopped when it asked to stop."""
        if not self._stopping and select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 512)
        if self._stopping:
            raise _Stopped

    def _start_engines(self, lock: int) -> bool:
        """Starts those that are not given by a URL; whether the database needs migrating."""
        storage, places = self._settings.storage, self._places
        migrate = True
        if storage.database_url is None:
            migrate = self._start_postgres(lock)
        else:
            say("Postgres: yours, at DATABASE_URL")
        if storage.redis_url is None:
            started = self._start(valkey.program(places, pass_fds=(lock,)), self._engines)
            self._await_ready(started, lambda: valkey.is_ready(places), ENGINE_READY_WITHIN_S)
            say(f"Valkey (process {started.pid}), data in {places.valkey}")
        else:
            say("Redis: yours, at REDIS_URL")
        return migrate

    def _start_postgres(self, lock: int) -> bool:
        places = self._places
        if not places.postgres.exists():
            say(f"making a new database in {places.postgres}")
        postgres.initialise(places)
        postgres.forget_dead_server(places)
        started = self._start(postgres.program(places, pass_fds=(lock,)), self._engines)
        recovering = partial(postgres.is_recovering, places)
        self._await_ready(started, lambda: postgres.is_ready(places), ENGINE_READY_WITHIN_S, recovering)
        migrate = postgres.create_database(places)
        say(f"{postgres.version()} (process {started.pid}), data in {places.postgres}")
        return migrate

    def _start(self, program: Program, into: list[Kept]) -> Kept:
        kept = Kept(program)
        into.append(kept)
        kept.start()
        return kept

    def _migrate(self) -> None:
        argv = [sys.executable, "-m", "project.schema"]
        migration = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while migration.poll() is None:
                self._pause(POLL_S)
        except _Stopped:
            migration.kill()
            raise
        finally:
            output, _ = migration.communicate()
        if migration.returncode != 0:
            last = (output.decode(errors="replace").strip() or "no output").splitlines()[-1]
            raise EngineError(f"the database could not be migrated: {last.removeprefix('claim_process: ')}")

    def _start_children(self) -> None:
        for child in self._children:
            self._start(Program(child.name, child.argv, env=dict(child.env)), self._services)

    def _await_children(self) -> None:
        for child, kept in zip(self._children, self._services, strict=True):
            if (url := child.ready_url) is not None:
                self._await_ready(kept, lambda url=url: _answers(url), CHILD_READY_WITHIN_S)  # type: ignore[misc]
            say(f"{kept.program.name} (process {kept.pid})")

    def _await_ready(
        self, kept: Kept, ready: Callable[[], bool], within_s: float, recovering: Callable[[], bool] = lambda: False
    ) -> None:
        """Until it is ready. Raises EngineError after its end, or `within_s` seconds in which it was not recovering."""
        deadline = time.monotonic() + within_s
        while not ready():
            if kept.exit_code is not None:
                raise EngineError(f"{kept.program.name} ended with {_how(kept.exit_code)} at its start{_see(kept)}")
            if time.monotonic() > deadline:
                if not recovering():
                    raise EngineError(f"{kept.program.name} was not ready within {within_s:.0f} s{_see(kept)}")
                say(f"{kept.program.name} is recovering; this goes on when it is done")
                deadline = time.monotonic() + within_s
            self._pause(POLL_S)

    def _keep(self) -> None:
        """Starts again whatever ends, until a signal asks to stop."""
        everything = self._engines + self._services
        while True:
            now = time.monotonic()
            for kept in everything:
                if kept.exit_code is None:
                    continue
                if kept.again_at is None:
                    pause = kept.plan_restart()
                    say(f"{kept.program.name} ended with {_how(kept.exit_code)}; it is started again in {pause:.1f} s")
                elif kept.again_at <= now:
                    self._start_again(kept)
            due = [kept.again_at for kept in everything if kept.again_at is not None]
            self._pause(max(0.0, min(due, default=now + 60.0) - now))

    def _start_again(self, kept: Kept) -> None:
        if kept.program.name == "Postgres":
            with suppress(EngineError):  # a last process of the old one is still there; the next try finds it gone
                postgres.forget_dead_server(self._places)
        kept.start()
        say(f"{kept.program.name} started again (process {kept.pid})")

    def _stop(self) -> None:
        self._stopping = True
        started = list(zip(self._services, self._children, strict=False))
        callers = [kept for kept, child in started if not child.serves_others]
        called = [kept for kept, child in started if child.serves_others]
        for group, grace_s in (
            (callers, CHILD_GRACE_S),
            (called, CHILD_GRACE_S),
            (self._engines, ENGINE_GRACE_S),
        ):
            for kept in group:
                kept.ask_to_stop()
            for kept in group:
                kept.wait_stopped(grace_s)


def _signal_pipe(handler: Callable[[int, FrameType | None], None]) -> int:
    """A descriptor that becomes readable at every signal that matters here."""
    readable, writable = os.pipe()
    for end in (readable, writable):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup wants to outlive the terminal
            signal.signal(number, handler)
    return readable


def _take_lock(places: Places, pause: Callable[[float], None]) -> int:
    """Holds the data folder for this supervisor and, as an inherited descriptor, for its engines.

    So the lock stays while any of them lives, and two Postgres servers never share a folder. Raises EngineError when
    another supervisor holds it; the engines of one that was killed are waited for.
    """
    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + DYING_ENGINES_S
    while not _is_ours(lock):
        holder = _live_holder(lock)
        if holder is not None or time.monotonic() > deadline:
            by = f" by process {holder}" if holder else ""
            raise EngineError(f"the data folder {places.data} is in use{by}; set DATA_DIR to another")
        pause(POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _is_ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _live_holder(lock: int) -> int | None:
    """The supervisor that wrote its pid into the lock, if it lives."""
    written = os.pread(lock, 32, 0)
    try:
        os.kill(int(written), 0)
    except (ValueError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return int(written)


def _check_ports(children: Sequence[Child]) -> None:
    for child in children:
        if child.ready_url is None:
            continue
        address = urlsplit(child.ready_url)
        host, port = address.hostname or "127.0.0.1", address.port or 80
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                why = "is taken" if taken else f"cannot be used ({error.strerror})"
                raise EngineError(
                    f"port {port} of {host} {why}; {child.name} needs it: set {child.port_setting} to another"
                ) from None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=_UNVERIFIED) as answer:  # noqa: S310  our own URL
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _how(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _see(kept: Kept) -> str:
    """Where to look: the last line of its log, or the lines above."""
    if kept.program.log is None:
        return "; its own lines above say why"
    lines = _tail(kept.program.log)
    return f": {lines[-1]}" if lines else f"; see {kept.program.log}"


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return []
