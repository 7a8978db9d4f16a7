"""Rows about claims of a thousand lines. Called by `__main__`."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from bench import database
from bench.ground import LARGE_LINES, PLAIN_CLIENTS, Ground
from bench.rows import Row, Side, Spec, in_turn, needed

_LARGE = "`POST /claims`, 1,000 lines"

SPECS = (
    Spec(
        "large-copy", _LARGE, "COPY of the same lines, and the same totals",
        "the whole service, JSON in and out, against ready-made text copied into the same table on one connection, "
        "with the totals' statement, 10,000 lines a transaction",
        0.5, "lines/s", ("large", "copy"),
    ),
    Spec(
        "large-plain", _LARGE, "the plain way",
        f"as with two lines; on the plain side {PLAIN_CLIENTS} clients, which wait for their last answers",
        12, "lines/s", ("large", "large plain"),
    ),
)  # fmt: skip


def sides(ground: Ground) -> dict[str, Side]:
    """All of them, by the names that SPECS need."""
    return {
        "large": partial(_large, ground),
        "copy": partial(_copy, ground),
        "large plain": partial(_large_plain, ground),
    }


def _large(ground: Ground) -> dict[str, float]:
    return {"large": ground.intake(ground.service.url, "large").run.rate * LARGE_LINES}


def _copy(ground: Ground) -> dict[str, float]:
    return {"copy": asyncio.run(database.copy(ground.copied_database, ground.chunks, ground.plan.seconds))}


def _large_plain(ground: Ground) -> dict[str, float]:
    return {"large plain": ground.plain_large_intake() * LARGE_LINES}


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted."""
    figures = in_turn(ground.plan.pairs, needed(wanted, sides(ground)))
    for spec in wanted:
        left, right = spec.needs
        yield Row(spec, figures[left], figures[right])
