"""Real web processes for tests, and words of the domain to talk to them with. Used by fixtures and by flows."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 30.0


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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


class Service:
    """Web processes on a port of their own."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.http = httpx2.Client(base_url=url, timeout=20)
        self.database_url = ""

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

    def ready(self) -> bool:
        """Whether /readyz says so."""
        if self.process.poll() is not None:
            raise AssertionError(f"the web process ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment of a process of ours: nothing of this machine's own settings but the path."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "DATA_DIR": str(data_dir), "PYTHONWARNINGS": "error"} | settings


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str], argv: Sequence[str] = (sys.executable, "-m", "project.web")
) -> Iterator[Service]:
    """A web service with these settings, ready; stopped at the end. `folder` holds its data and its log."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "web.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment(folder, PORT=str(port)) | dict(settings),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(service.ready, "the web service is ready")
        yield service
    finally:
        service.http.close()
        if process.poll() is None:
            service.stop()
