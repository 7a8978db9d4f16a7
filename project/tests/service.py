"""Real web processes for tests, and words of the domain to talk to them with. Used by fixtures and by flows."""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 30.0
SHARES = 8  # more than there are test processes at once
WEB = (sys.executable, "-m", "project.web")


def _ports() -> Iterator[int]:
    """Of those that no system gives to outgoing connections, this test process's own share, over and over."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    mine = range(10_240 + share, 32_768, SHARES)
    first = random.randrange(len(mine))
    return itertools.cycle([*mine[first:], *mine[:first]])


_own_ports = _ports()


def free_port() -> int:
    """A TCP port that nobody listens on, and that is given to nobody else before whoever asked for it listens."""
    while True:
        port = next(_own_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def wait_until(condition: Callable[[], Any], what: str, within_s: float = START_WITHIN_S) -> Any:
    """What `condition` gives as soon as it is true; an AssertionError that names `what` when it never is."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {within_s} s: {what}")


def line(**changes: Any) -> dict[str, Any]:
    """A valid claim line with the given columns changed."""
    return {
        "service_dttm": "2018-03-28 00:00:00",
        "submitted_proc": "D0180",
        "quadrant": None,
        "group_id": "GRP-1000",
        "subscriber_id": "3730189502",
        "provider_npi": "1497775530",
        "provider_fees": 100.00,
        "allowed_fees": 100.00,
        "member_co_ins": 0.00,
        "member_co_pay": 0.00,
    } | changes


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """The server of a test's own answers, from a thread, until the block ends."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Daemon:
    """A process of ours on a port of its own: started, asked over HTTP, killed, started again."""

    def __init__(
        self, folder: Path, argv: Sequence[str], url: str, ready_path: str, settings: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url = url
        self.log = folder / "log"
        self.http = httpx2.Client(base_url=url, timeout=20)
        self._folder = folder
        self._argv = argv
        self._ready_path = ready_path
        self._environment = environment(folder, **settings)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self._argv,
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start_again(self, **changes: str) -> None:
        """After its end: on the same port, with the same settings but for these; ready when this returns."""
        self._environment |= changes
        self.process = self._start()
        self.await_ready()

    def ready(self) -> bool:
        """Whether it answers 200."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self._argv} ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.http.get(self._ready_path).status_code == 200
        except httpx2.TransportError:
            return False

    def await_ready(self) -> None:
        """Waits for that."""
        wait_until(self.ready, f"{self._argv} is ready")

    def kill(self) -> None:
        """kill -9, and its end."""
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def close(self) -> None:
        """Stops it, if it runs."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.stop()


class Service(Daemon):
    """Web processes."""

    def __init__(self, folder: Path, settings: Mapping[str, str], argv: Sequence[str] = WEB) -> None:
        port = free_port()
        super().__init__(folder, argv, f"http://127.0.0.1:{port}", "/readyz", {"PORT": str(port), **settings})
        self.database_url = settings.get("DATABASE_URL", "")

    def submit(self, claim: Any, **headers: str) -> httpx2.Response:
        """Posts a claim as JSON; header names with underscores for hyphens."""
        return self.http.post(
            "/claims", json=claim, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def accepted(self, claim: Any, **headers: str) -> dict[str, Any]:
        """The answer to a claim that must be accepted."""
        answer = self.submit(claim, **headers)
        assert answer.status_code == 201, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment of a process of ours: nothing of this machine's own settings but the path."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "DATA_DIR": str(data_dir), "PYTHONWARNINGS": "error"} | settings


@contextmanager
def running(folder: Path, settings: Mapping[str, str], argv: Sequence[str] = WEB) -> Iterator[Service]:
    """A web service with these settings, ready; stopped at the end. `folder` holds its data and its log."""
    service = Service(folder, settings, argv)
    try:
        service.await_ready()
        yield service
    finally:
        service.close()
