"""Rows about GET /top-provider as dashboards ask it; how its cost grows is told by `growth`. Called by `__main__`."""

from collections.abc import Iterator, Sequence
from functools import partial

from bench import wrk
from bench.ground import Ground
from bench.rows import Row, Side, Spec, in_turn, needed

_ROUTE = "/top-provider"

SPECS = (
    Spec(
        "ranking-cached", "`GET /top-provider` from cache, limiter on but not reached",
        "a constant FastAPI route, the same answer",
        "two round trips to Valkey (count the request, read the ranking, made anew each second) against nothing",
        0.7, "answers/s", ("cached", "constant top"),
    ),
    Spec(
        "ranking-429", "a 429 of `GET /top-provider`", "a constant FastAPI route, the same answer with 200",
        "a refusal with its headers, counted in Valkey",
        0.8, "answers/s", ("refusal", "constant refusal"),
    ),
)  # fmt: skip


def sides(ground: Ground) -> dict[str, Side]:
    """All of them, by the names that SPECS need."""
    return {
        "cached": partial(_cached, ground),
        "constant top": partial(_constant, ground, "constant top", "/top"),
        "refusal": partial(_refusal, ground),
        "constant refusal": partial(_constant, ground, "constant refusal", "/refusal"),
    }


def _cached(ground: Ground) -> dict[str, float]:
    return {"cached": wrk.good(ground.service.url, _ROUTE, ground.plan.seconds).rate}


def _constant(ground: Ground, name: str, route: str) -> dict[str, float]:
    return {name: wrk.good(ground.constant.url, route, ground.plan.seconds).rate}


def _refusal(ground: Ground) -> dict[str, float]:
    return {"refusal": wrk.refused(ground.limited.url, _ROUTE, ground.plan.seconds).rate}


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted."""
    figures = in_turn(ground.plan.pairs, needed(wanted, sides(ground)))
    for spec in wanted:
        left, right = spec.needs
        yield Row(spec, figures[left], figures[right])
