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
    """What one run of wrk counted. `rate` is of all answers, a second; `not_2xx` of them had another status."""

    seconds: float
    answers: int
    not_2xx: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float

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
