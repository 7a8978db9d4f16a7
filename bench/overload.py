"""Rows about what is left of the pace when three times as much is offered as can be taken. Called by `__main__`.

In turn: PEAK_CLIENTS clients that post without a pause, then so many that post about three times what those brought
through, or as often as they are read, whatever they are answered. Beside the second load /livez and /readyz are asked
ten times a second, and after it the first load starts again: its first second tells how fast the service is itself
again.
"""

import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench import wrk
from bench.ground import MINIMAL, Ground
from bench.rows import Figures, Row, Spec, in_turn

PEAK_CLIENTS = 64
TIMES = 3
OVERLOADING_CLIENTS = 900
ASK_EVERY_S = 0.1
AGAIN_S = 1.0

SPECS = (
    Spec(
        "overload-kept", f"claims accepted a second while up to {TIMES} times as much is offered", "at the top load",
        f"{OVERLOADING_CLIENTS} clients that ask again after a 503, and are not read for 300 ms after it, against "
        f"{PEAK_CLIENTS} that post without a pause",
        0.8, "claims/s",
    ),
    Spec(
        "overload-after", "claims accepted in the first second after that", "at the top load",
        "how soon the service is itself again",
        None, "claims/s",
    ),
)  # fmt: skip


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


class Overload:
    """Both loads in turn, on the ground's own service."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._pace = wrk.Pace(OVERLOADING_CLIENTS)

    def _load(self, clients: int, seconds: float, pause_ms: float = 0.0) -> wrk.Run:
        """Every acknowledged claim is stored; other answers than 201 and 503 are counted, not refused: see the note."""
        service = self._ground.service
        with service.stores_all(OVERLOADING_CLIENTS + PEAK_CLIENTS) as stored:  # the last load may have left some, too
            run = wrk.run(
                service.url, "/claims", seconds, self._ground.bodies("uniform"), clients,
                COUNT="1", PREFER=MINIMAL, PAUSE_MS=f"{pause_ms:.0f}",
            )  # fmt: skip
            stored.acknowledged = run.accepted
        return run

    def measure(self) -> dict[str, float]:
        """A pair, and what was seen beside it."""
        service, seconds = self._ground.service, self._ground.plan.seconds
        before_mib = service.memory_mib("project.web")
        peak = self._load(PEAK_CLIENTS, seconds)
        service.await_drained()
        pause_ms = self._pace.pause_ms(TIMES * peak.rate)
        with Health(service.url).watched() as health:
            over = self._load(OVERLOADING_CLIENTS, seconds, pause_ms)
        self._pace.learn(pause_ms, over.rate)
        after_mib = service.memory_mib("project.web")
        again = self._load(PEAK_CLIENTS, AGAIN_S)
        service.await_drained()
        return {
            "peak": peak.accepted / peak.seconds,
            "over": over.accepted / over.seconds,
            "again": again.accepted / again.seconds,
            "offered": over.rate / peak.rate,
            "other": over.other,
            "p99": over.p99_ms,
            "health": health.slowest_s * 1000,
            "failures": health.failures,
            "before": before_mib,
            "after": after_mib,
        }


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted."""
    overload = Overload(ground)
    if not ground.plan.quick:
        overload.measure()  # learns how long the clients must pause
    figures = in_turn(ground.plan.slow_pairs, {"overload": overload.measure})
    for spec in wanted:
        name, note = ("over", _seen(figures)) if spec.key == "overload-kept" else ("again", "")
        yield Row(spec, figures[name], figures["peak"], note)


def _seen(figures: Figures) -> str:
    return (
        f"{min(figures['offered']):.1f} to {max(figures['offered']):.1f} times as much was offered; "
        f"{sum(figures['other']):.0f} answers were neither 201 nor 503; "
        f"p99 of all answers at most {max(figures['p99']):.0f} ms; "
        f"/livez and /readyz within {max(figures['health']):.0f} ms, "
        f"{sum(figures['failures']):.0f} failures; web {figures['before'][0]:.0f} -> {figures['after'][-1]:.0f} MiB"
    )
