"""Rows about what follows a claim's 201, and about its delays at half of the top load. Called by `__main__`."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from bench import bare, wrk
from bench.ground import Ground
from bench.rows import Figures, Row, Side, Spec, in_turn, needed
from bench.stack import DELAY_MS, settle_down
from project.ids import first_id_at

AT_ONCE = 128  # calls in flight of a worker (PAYMENTS_CONCURRENCY)
HALF_CLIENTS = 64  # they pause between their claims
HALF = (0.45, 0.55)  # of the top load: what still counts as half of it
TRIES = 3
_LEFT = "SELECT count(*) FROM payment WHERE state = 'due'"
# $1 the first id: milliseconds from a claim's receipt, which its id tells, to the event of its payment
_TO_PAID = """
SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM at - uuid_extract_timestamp(claim_id))) * 1000
FROM claim_event WHERE claim_id >= $1 AND type = 'claim.paid'
"""

SPECS = (
    Spec(
        "saga-bare", "claims paid a second, one worker, no delay", "a bare aiohttp loop posting to the same server",
        f"a backlog that built up while the worker stood still, until nothing of it is due, against payments posted "
        f"with as many calls in flight ({AT_ONCE}), of which nothing is stored on our side",
        0.4, "payments/s", ("paid", "bare"),
    ),
    Spec(
        "saga-intake", "claims paid a second, one worker, no delay", "what one web process takes in",
        "whether one worker keeps up with one web process",
        1.0, "claims/s", ("paid", "top"),
    ),
    Spec(
        "saga-p99", "accepted -> paid, p99, at half of the top load", f"the stand-in's {DELAY_MS} ms",
        "from a claim's receipt (the time in its id) to the event of its payment",
        5, "ms", ("top", "half"), at_most=True,
    ),
    Spec(
        "latency-p99", "p99 of `POST /claims` at half of the top load", "its p50",
        f"{HALF_CLIENTS} clients that pause between their claims, as wrk measures them",
        5, "ms", ("top", "half"), at_most=True,
    ),
)  # fmt: skip


class Half:
    """Half of what the service has just taken in."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._pace = wrk.Pace(HALF_CLIENTS)
        self._top = 0.0

    def top(self) -> dict[str, float]:
        """What one web process takes in."""
        self._top = self._ground.intake(self._ground.service.url, "uniform").run.rate
        return {"top": self._top}

    def half(self) -> dict[str, float]:
        """Delays at half of that; tried again with what was learnt, where the load was another."""
        service = self._ground.service
        for _ in range(TRIES):
            pause_ms, since = self._pace.pause_ms(self._top / 2), first_id_at(datetime.now(UTC))
            run = self._ground.intake(service.url, "uniform", clients=HALF_CLIENTS, PAUSE_MS=f"{pause_ms:.0f}").run
            self._pace.learn(pause_ms, run.rate)
            if HALF[0] < run.rate / self._top < HALF[1]:
                break
        to_paid = float(service.value(_TO_PAID, since))
        return {"half": run.rate / self._top, "p50": run.p50_ms, "p99": run.p99_ms, "to paid": to_paid}


def _paid(ground: Ground) -> dict[str, float]:
    service = ground.service
    with service.paused("project.worker"), service.stores_all(wrk.CLIENTS) as stored:
        stored.acknowledged = wrk.good(service.url, "/claims", ground.plan.seconds, ground.bodies("uniform")).answers
        service.behave(delay_ms=0)
        due = service.value(_LEFT)
        settle_down()
    started = time.perf_counter()
    service.await_paid()
    passed = time.perf_counter() - started
    service.behave(delay_ms=DELAY_MS)
    service.await_drained()
    return {"paid": due / passed}


def _bare(ground: Ground) -> dict[str, float]:
    ground.service.behave(delay_ms=0)
    rate = bare.paid_a_second(ground.service.payments, ground.plan.seconds, AT_ONCE)
    ground.service.behave(delay_ms=DELAY_MS)
    return {"bare": rate}


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted."""
    half = Half(ground)
    sides: dict[str, Side] = {
        "top": half.top,
        "half": half.half,
        "paid": partial(_paid, ground),
        "bare": partial(_bare, ground),
    }
    figures = in_turn(ground.plan.pairs, needed(wanted, sides))
    for spec in wanted:
        match spec.key:
            case "saga-p99":
                yield Row(spec, figures["to paid"], [float(DELAY_MS)] * len(figures["to paid"]), _load(figures))
            case "latency-p99":
                yield Row(spec, figures["p99"], figures["p50"], _load(figures))
            case _:
                yield Row(spec, figures[spec.needs[0]], figures[spec.needs[1]])


def _load(figures: Figures) -> str:
    return f"the load was {min(figures['half']):.2f} to {max(figures['half']):.2f} of the top one"
