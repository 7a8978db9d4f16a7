"""`python -m bench.overload`: what is left of the pace when three times as much is offered as can be taken.

The whole service as `make run` starts it, one web process, worker and stand-in at work. In turn: PEAK_CLIENTS clients
that post without a pause, then so many that post about three times what those brought through, whatever they are
answered. Beside the second load /livez and /readyz are asked ten times a second, and after it the first load starts
again: its first second tells how fast the service is itself again. Prints the pairs, their median and spread.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from project.engines.places import Places
from project.tests.service import ROOT, environment, free_port, wait_until
from project.tests.supervision import processes_of

SCRIPT = Path(__file__).parent / "post.lua"
PEAK_CLIENTS = 64
TIMES = 3
OVERLOADING_CLIENTS = 900
ASK_EVERY_S = 0.1


@dataclass(frozen=True)
class Run:
    """One run of wrk: answers a second and their latencies."""

    accepted: float
    refused: float
    other: int
    p99_ms: float

    @property
    def offered(self) -> float:
        """Requests a second, whatever became of them."""
        return self.accepted + self.refused


def load(url: str, clients: int, seconds: float, pause_ms: float = 0.0) -> Run:
    """Runs wrk."""
    argv = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(SCRIPT), url]
    done = subprocess.run(
        argv, env={**os.environ, "PAUSE_MS": f"{pause_ms:.0f}"}, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.strip().splitlines()[-1])
    rate = {name: told[name] / told["seconds"] for name in ("accepted", "refused")}
    return Run(rate["accepted"], rate["refused"], told["other"], told["p99_ms"])


class Health:
    """Asks the health endpoints again and again; `slowest_s` and `failures` so far."""

    def __init__(self, url: str) -> None:
        self.slowest_s = 0.0
        self.failures = 0
        self._urls = [f"{url}/livez", f"{url}/readyz"]
        self._stop = threading.Event()

    def _ask(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            for url in self._urls:
                started = time.monotonic()
                try:
                    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own
                        self.failures += answer.status != 200
                except OSError:
                    self.failures += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    @contextmanager
    def watched(self) -> Iterator["Health"]:
        """Asks until the block ends."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """The URL of a service of its own."""
    port = free_port()
    settings = {"PAYMENTS_PORT": str(free_port()), "METRICS_PORT": str(free_port()), "LOG_LEVEL": "warning"}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "project"],
            cwd=folder,
            env=environment(folder / "var", PORT=str(port), **settings),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: "serving:" in (folder / "log").read_text(), "it serves", within_s=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)


def web_memory_mib(folder: Path) -> float:
    """What the web process has in memory."""
    for pid in processes_of(folder / "var"):
        if b"project.web" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:", 1)[1].split()[0]) / 1024
    raise RuntimeError("there is no web process")


def drained(folder: Path) -> bool:
    """Whether the worker has paid all that was accepted; it takes its share of the processors until then."""

    async def ask() -> bool:
        connection = await asyncpg.connect(Places(folder / "var").postgres_url)
        try:
            return not await connection.fetchval("SELECT EXISTS (SELECT FROM payment WHERE state = 'due')")
        finally:
            await connection.close()

    return asyncio.run(ask())


def measure(pairs: int, seconds: float) -> None:
    """Runs all of it and prints the table."""
    kept: list[float] = []
    recovered: list[float] = []
    with tempfile.TemporaryDirectory() as made, service(Path(made)) as url:
        folder = Path(made)
        load(url, PEAK_CLIENTS, seconds)  # warm

        def await_drained() -> None:
            wait_until(lambda: drained(folder), "the backlog is drained", within_s=300)

        times = 1.0  # by how much a client must be more hasty than its pause says, since it also waits for answers
        for number in range(1, pairs + 1):
            await_drained()
            before_mib = web_memory_mib(folder)
            peak = load(url, PEAK_CLIENTS, seconds)
            pause_ms = OVERLOADING_CLIENTS / (TIMES * peak.accepted) * 1000 / times
            await_drained()
            with Health(url).watched() as health:
                over = load(url, OVERLOADING_CLIENTS, seconds, pause_ms)
            times *= TIMES / (over.offered / peak.accepted)
            after_mib = web_memory_mib(folder)
            again = load(url, PEAK_CLIENTS, 1)
            kept.append(over.accepted / peak.accepted)
            recovered.append(again.accepted / peak.accepted)
            print(
                f"{number}: peak {peak.accepted:.0f}/s; offered {over.offered / peak.accepted:.1f} times that: "
                f"accepted {over.accepted:.0f}/s ({kept[-1]:.2f}), refused {over.refused:.0f}/s, other {over.other}, "
                f"p99 of all answers {over.p99_ms:.0f} ms; health at most {health.slowest_s * 1000:.0f} ms, "
                f"{health.failures} failures; web {before_mib:.0f} -> {after_mib:.0f} MiB; "
                f"first second after {recovered[-1]:.2f}"
            )
    for name, ratios in (("kept of the pace", kept), ("first second after", recovered)):
        print(f"{name}: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    measure(chosen.pairs, chosen.seconds)
