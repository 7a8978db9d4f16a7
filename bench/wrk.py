"""Runs wrk, and says what it counted."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "load.lua"
CLIENTS = 32


@dataclass(frozen=True)
class Run:
    """What one run of wrk counted. `rate` is of all answers, a second; `not_2xx` of them had another status.

    With COUNT=1, for which wrk asks each answer: those that were 201, 503 with Retry-After, and anything else.
    """

    seconds: float
    answers: int
    not_2xx: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    accepted: int = 0
    refused: int = 0
    other: int = 0

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def run(
    url: str, route: str, seconds: float, bodies: Path | None = None, clients: int = CLIENTS, **environment: str
) -> Run:
    """Puts load on a route: POSTs of these bodies, or GETs. `environment`: see load.lua."""
    told = {"ROUTE": route, "METHOD": "POST" if bodies else "GET", **({"BODIES": str(bodies)} if bodies else {})}
    argv = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(SCRIPT), url]
    done = subprocess.run(argv, env=os.environ | told | environment, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def good(
    url: str, route: str, seconds: float, bodies: Path | None = None, clients: int = CLIENTS, **environment: str
) -> Run:
    """The same, where every answer must be one of 2xx. Raises RuntimeError for any other."""
    counted = run(url, route, seconds, bodies, clients, **environment)
    if counted.not_2xx or counted.broken:
        raise RuntimeError(f"{route}: {counted.not_2xx} of {counted.answers} not 2xx, {counted.broken} broken")
    return counted


def refused(url: str, route: str, seconds: float) -> Run:
    """The same, where every answer must be another."""
    counted = run(url, route, seconds)
    if counted.not_2xx != counted.answers or counted.broken:
        raise RuntimeError(f"{route}: {counted.not_2xx} of {counted.answers} not 2xx, {counted.broken} broken")
    return counted


class Pace:
    """Clients that pause so long between an answer and their next request that they ask `rate` times a second.

    How long they wait for the answers is learnt from each run, so the first one is for that.
    """

    def __init__(self, clients: int = CLIENTS) -> None:
        self.clients = clients
        self._waiting_ms = 0.0

    def pause_ms(self, rate: float) -> float:
        """Between an answer and the next request."""
        return max(1.0, self.clients / rate * 1000 - self._waiting_ms)

    def learn(self, pause_ms: float, rate: float) -> None:
        """From a run with this pause that came to this rate."""
        self._waiting_ms = max(0.0, self.clients / rate * 1000 - pause_ms)
