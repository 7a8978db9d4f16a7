"""Rows about how cost grows with what is stored: a small service and one that grows, in turn. Called by `__main__`.

Both are whole services, each on engines of its own. The small one is emptied and filled anew before each run of claims,
since a run of seconds adds more lines than it begins with. The other one grows in lines, then in NPIs; at each size
both are measured. What it grows by is written on the server, paid and published (`growing`).
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench import bodies, growing, wrk
from bench.ground import Curve, Ground
from bench.rows import Figures, Row, Side, Spec, in_turn
from bench.stack import FOLDER, Stack, running
from project import db
from project.claims.answers import cursor_after
from project.providers.ranking import from_totals

Sides = dict[str, tuple[Sequence[float], Sequence[float]]]  # of rows, by their keys

FIRST_NPIS = 1_000
LONGEST_S = 3.0  # of a run of claims: the small service shall stay small
WRITES = 300  # claims a second beside the ranking
PAGE_CLIENTS = 8
PAGE_S = 1.0
PAGE = 50
_OF_ALL = f"/claims?limit={PAGE}"
_OF_PROVIDER = f"{_OF_ALL}&provider_npi=1000000000"
# $1 how many claims come before it
_ID_OF_ALL = "SELECT id FROM claim ORDER BY id DESC OFFSET $1 LIMIT 1"
_ID_OF_PROVIDER = """
SELECT DISTINCT claim_id FROM claim_line WHERE provider_npi = '1000000000' ORDER BY claim_id DESC OFFSET $1 LIMIT 1
"""
_DEPTHS = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_CLAIMS = 5_000

_CLAIM = "time of a 2-line claim at 10,000,000 stored lines"
_RANKING = "the ranking made anew"
SPECS = (
    Spec(
        "growth-claim", _CLAIM, "at 10,000",
        "one web process at its top load; the NPIs are the same 1,000",
        1.3, "ms", at_most=True,
    ),
    Spec(
        "growth-claim-npis", f"{_CLAIM} of 1,000,000 NPIs", "at 10,000 of 1,000",
        "the same where each line meets another place in the index of NPIs, which no longer fits into Postgres' memory",
        None, "ms", at_most=True,
    ),
    Spec(
        "growth-ranking-lines", f"{_RANKING} at 10,000,000 lines", "at 10,000",
        f"the totals' statement and the heap, one after the other, beside {WRITES} claims a second; 1,000 NPIs",
        1.3, "ms", at_most=True,
    ),
    Spec(
        "growth-ranking", f"{_RANKING} at 1,000,000 NPIs and 10,000,000 lines, under write load", "at 1,000 NPIs",
        "the same; what grows is the number of totals, of which each partition's index offers a hundred",
        1.5, "ms", at_most=True,
    ),
    Spec(
        "growth-ranking-hot", f"{_RANKING} after an hour of updates to hot NPIs", "at 1,000 NPIs",
        "the same right after 360,000 commits of which each moves ten of the best 1,000 in the index, autovacuum as it "
        "comes",
        1.5, "ms", at_most=True,
    ),
    Spec(
        "growth-pages", "the deepest page of `GET /claims`", "the first",
        f"{PAGE} claims by cursor, near the end of all that are stored",
        1.3, "ms", at_most=True,
    ),
    Spec(
        "growth-pages-provider", "the deepest page of one provider's claims", "the first",
        "the same with `provider_npi`",
        1.3, "ms", at_most=True,
    ),
    Spec(
        "growth-first-page-provider", "the first page of one provider's claims at 10,000,000 lines", "at 10,000",
        "the same; what grows is how many claims the provider has",
        None, "ms", at_most=True,
    ),
)  # fmt: skip


def begin(ground: Ground) -> None:
    """Looks for room on the disk before an hour is spent."""
    growing.check_room(ground.plan.growing_lines[-1] + ground.plan.growing_npis[-1])


class Growth:
    """Both services and what they have."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.plan = ground.plan
        with ThreadPoolExecutor() as together:
            self.small, self.grown = together.map(ground.exits.enter_context, map(running, ("small", "grown")))
        self.npis = FIRST_NPIS
        self.lines = self.plan.first_lines
        self.before_npis: Figures = {}
        for stack in (self.small, self.grown):
            growing.add(stack, self.plan.first_lines, FIRST_NPIS)
            wrk.good(stack.url, "/claims", self.plan.warm_s, self._bodies(FIRST_NPIS))
            stack.await_drained()

    def grow(self, lines: int) -> None:
        """To so many lines of the same NPIs."""
        growing.add(self.grown, lines - self.lines, self.npis)
        self.lines = lines

    def spread(self, npis: int) -> None:
        """To so many NPIs: a line more for each that is new."""
        growing.add(self.grown, npis - self.npis, npis - self.npis, self.npis)
        self.npis = npis

    def both(self, *, last: bool) -> Figures:
        """A claim, a page and the ranking, on the small service and on the grown one; in full at the last size."""
        return in_turn(self.plan.slow_pairs if last else self.plan.between_pairs, {
            "small claim": partial(self._claim, "small claim", self.small, FIRST_NPIS, refill=True),
            "grown claim": partial(self._claim, "grown claim", self.grown, self.npis),
            "small page": partial(self._page, "small page", self.small, _OF_PROVIDER),
            "grown page": partial(self._page, "grown page", self.grown, _OF_PROVIDER),
            **self._rankings(),
        })  # fmt: skip

    def rankings(self) -> Figures:
        """The ranking alone."""
        return in_turn(self.plan.slow_pairs, self._rankings())

    def _rankings(self) -> dict[str, Side]:
        return {
            "small ranking": partial(self._ranking, "small ranking", self.small, FIRST_NPIS),
            "grown ranking": partial(self._ranking, "grown ranking", self.grown, self.npis),
        }

    def _bodies(self, npis: int) -> Path:
        file = FOLDER / f"of-{npis}.ndjson"
        if not file.exists():
            bodies.written(file, _CLAIMS, 2, bodies.uniform(npis))
        return file

    def _claim(self, name: str, stack: Stack, npis: int, *, refill: bool = False) -> dict[str, float]:
        """Milliseconds of the service for each claim, at its top load."""
        if refill:
            growing.empty(stack)
            growing.add(stack, self.plan.first_lines, FIRST_NPIS)
        with stack.stores_all(wrk.CLIENTS) as stored:
            run = wrk.good(stack.url, "/claims", min(self.plan.seconds, LONGEST_S), self._bodies(npis))
            stored.acknowledged = run.answers
        stack.await_drained()
        return {name: 1000 / run.rate}

    def _ranking(self, name: str, stack: Stack, npis: int) -> dict[str, float]:
        """Milliseconds to make the ranking, the median of all within a run."""
        seconds = min(self.plan.seconds, LONGEST_S)
        with ThreadPoolExecutor(1) as beside:
            load = beside.submit(
                wrk.good,
                stack.url,
                "/claims",
                seconds,
                self._bodies(npis),
                PAUSE_MS=f"{wrk.CLIENTS / WRITES * 1000:.0f}",
            )
            times = asyncio.run(_ranked(stack.database(), seconds))
            load.result()
        stack.await_drained()
        return {name: statistics.median(times) * 1000}

    def pages(self) -> Figures:
        """Pages at all depths, of all claims and of one provider's."""
        sides: dict[str, Side] = {}
        for name, route, query in (("all", _OF_ALL, _ID_OF_ALL), ("provider", _OF_PROVIDER, _ID_OF_PROVIDER)):
            sides[f"{name} 0"] = partial(self._page, f"{name} 0", self.grown, route)
            there = [depth for depth in _DEPTHS if self.grown.value(query, depth + PAGE)]
            for depth in there[-1:] if self.plan.quick else there:
                cursor = cursor_after(self.grown.value(query, depth))
                sides[f"{name} {depth}"] = partial(
                    self._page, f"{name} {depth}", self.grown, f"{route}&cursor={cursor}"
                )
        return in_turn(self.plan.slow_pairs, sides)

    @staticmethod
    def _page(name: str, stack: Stack, route: str) -> dict[str, float]:
        return {name: 1000 / wrk.good(stack.url, route, PAGE_S, clients=PAGE_CLIENTS).rate}


async def _ranked(url: str, seconds: float) -> list[float]:
    """How long each of the rankings took that were made one after the other."""
    engine, times = db.create_engine(url, 2), []
    try:
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            await from_totals(engine)
            times.append(time.perf_counter() - started)
    finally:
        await engine.dispose()
    return times


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted; all that they share is measured for any of them."""
    growth, plan = Growth(ground), ground.plan
    rows = _by_lines(growth, ground) | _by_depth(growth, ground) | _by_npis(growth, ground) | _after_an_hour(growth)
    for stack in (growth.small, growth.grown):
        stack.check_books()
    lines, npis, minutes = plan.growing_lines[-1], plan.growing_npis[-1], plan.churn_minutes
    sizes = f"in short: {lines:,} lines, {npis:,} NPIs, {minutes} minutes" if plan.quick else ""
    for spec in wanted:
        yield Row(spec, *rows[spec.key], sizes)


def _by_lines(growth: Growth, ground: Ground) -> Sides:
    """The same NPIs, more and more lines."""
    curve, sizes = Curve(*_BY_LINES, logarithmic=True), ground.plan.growing_lines
    curve.series.update((label, [(growth.lines, 1.0)]) for label in _GROWING.values())
    for lines in sizes:
        growth.grow(lines)
        print(f"  {lines:,} lines:", flush=True)
        figures = growth.both(last=lines == sizes[-1])
        _add_points(curve, lines, figures)
    growth.before_npis = figures
    ground.curves.append(curve)
    return {
        "growth-claim": (figures["grown claim"], figures["small claim"]),
        "growth-ranking-lines": (figures["grown ranking"], figures["small ranking"]),
        "growth-first-page-provider": (figures["grown page"], figures["small page"]),
    }


def _by_npis(growth: Growth, ground: Ground) -> Sides:
    """About the same number of lines, more and more NPIs."""
    curve, sizes = Curve(*_BY_NPIS, logarithmic=True), ground.plan.growing_npis
    _add_points(curve, growth.npis, growth.before_npis)
    for npis in sizes:
        growth.spread(npis)
        print(f"  {npis:,} NPIs:", flush=True)
        figures = growth.both(last=npis == sizes[-1])
        _add_points(curve, npis, figures)
    ground.curves.append(curve)
    return {
        "growth-claim-npis": (figures["grown claim"], figures["small claim"]),
        "growth-ranking": (figures["grown ranking"], figures["small ranking"]),
    }


def _by_depth(growth: Growth, ground: Ground) -> Sides:
    """Pages further and further from the first."""
    curve = Curve(*_BY_DEPTH, logarithmic=True)
    rows: Sides = {}
    print("  pages:", flush=True)
    pages = growth.pages()
    for name, label, key in (
        ("all", "all claims", "growth-pages"),
        ("provider", "one provider's", "growth-pages-provider"),
    ):
        depths = sorted(int(side.split()[1]) for side in pages if side.startswith(f"{name} "))
        rows[key] = (pages[f"{name} {depths[-1]}"], pages[f"{name} 0"])
        curve.series[label] = [(max(depth, 1), statistics.median(pages[f"{name} {depth}"])) for depth in depths]
    ground.curves.append(curve)
    return rows


def _after_an_hour(growth: Growth) -> Sides:
    """The ranking when its index has been stirred."""
    growing.churn(growth.grown, growth.plan.churn_minutes)
    print(f"  {growth.plan.churn_minutes} minutes of updates to hot NPIs later:", flush=True)
    figures = growth.rankings()
    return {"growth-ranking-hot": (figures["grown ranking"], figures["small ranking"])}


_BY_LINES = ("growth-lines", "Time against that at 10,000 lines; 1,000 NPIs", "stored lines", "times as long")
_BY_NPIS = (
    "growth-npis",
    "Time against that at 1,000 NPIs and 10,000 lines; 10,000,000 lines",
    "NPIs",
    "times as long",
)
_BY_DEPTH = ("pages", "A page of GET /claims, 8 clients", "claims before it", "ms")
_GROWING = {
    "claim": "a 2-line claim",
    "ranking": "the ranking made anew",
    "page": "the first page of one provider's claims",
}


def _add_points(curve: Curve, x: int, figures: Figures) -> None:
    for name, label in _GROWING.items():
        ratios = [one / other for one, other in zip(figures[f"grown {name}"], figures[f"small {name}"], strict=True)]
        curve.series.setdefault(label, []).append((x, statistics.median(ratios)))
