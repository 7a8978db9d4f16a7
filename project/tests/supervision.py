"""A running supervisor for tests: what it says, which processes it has, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from project.tests.service import environment, free_port, wait_until


def processes_of(data_dir: Path) -> list[int]:
    """All live processes that run in, or were started with, this data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            here = str((entry / "cwd").readlink()).startswith(str(data_dir))
            told = f"DATA_DIR={data_dir}\0".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if state != "Z" and (here or told):
            found.append(int(entry.name))
    return found


class Supervisor:
    """A supervisor's process and its lines so far."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path, port: int) -> None:
        self.process = process
        self.data_dir = data_dir
        self.port = port
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, words: str) -> str | None:
        """The last line with these words."""
        return next((line for line in reversed(self.lines) if words in line), None)

    def await_line(self, words: str) -> str:
        """The same, once it is said; fails when the supervisor ends without it."""

        def look() -> str | None:
            if self.process.poll() is not None:
                self._reader.join(5)
                assert self.said(words), f"ended with {self.process.returncode}: {self.lines}"
            return self.said(words)

        line: str = wait_until(look, f"the supervisor says {words!r}")
        return line

    def pid_of(self, name: str) -> int:
        """The process id that the last line about this program tells."""
        line = self.await_line(f"{name}")
        return int(line.split("(process ", 1)[1].split(")", 1)[0])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The signal, and the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The exit code, once it has one and all its lines are read."""
        code = self.process.wait(60)
        self._reader.join(5)
        return code


CHEAP_CHILD = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"


def supervised(port: int, child: Sequence[str] = ()) -> list[str]:
    """The words of a supervisor with one child, by default a bare web server."""
    script = str(Path(__file__).parent / "engines" / "supervised.py")
    return [sys.executable, script, *(child or [sys.executable, "-c", CHEAP_CHILD, str(port)])]


def _heed_sighup() -> None:
    """As a terminal starts it, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def supervising(
    data_dir: Path, argv: Sequence[str] = (), port: int | None = None, child: Sequence[str] = (), **settings: str
) -> Iterator[Supervisor]:
    """A supervisor that was started; ended, and its processes with it, when the test is done with it."""
    port = port or free_port()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        argv or supervised(port, child),
        cwd=data_dir.parent,
        env=environment(data_dir, PORT=str(port), PAYMENTS_PORT=str(free_port()), METRICS_PORT=str(free_port()))
        | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_sighup,  # noqa: PLW1509  it takes no lock that another thread may hold
    )
    supervisor = Supervisor(process, data_dir, port)
    try:
        yield supervisor
    finally:
        if process.poll() is None:
            supervisor.stop()
        assert process.stdout
        process.stdout.close()
