"""What a measure gives: rows of the table, each a ratio of two sides measured in turn. Used by all measures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.stack import settle_down

Side = Callable[[], Mapping[str, float]]
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Spec:
    """A row before it is measured: `what` over `against`. `goal` bounds the median, from below, or with `at_most` from
    above; None: told, not judged. `needs` names the sides that must be measured for it.
    """

    key: str
    what: str
    against: str
    explanation: str
    goal: float | None
    unit: str
    needs: tuple[str, ...] = ()
    at_most: bool = False

    @property
    def sign(self) -> str:
        """The goal as it is written."""
        return "" if self.goal is None else f"{'<=' if self.at_most else '>='} {self.goal:g}"


@dataclass(frozen=True)
class Row:
    """A measured ratio: the k-th of `a` and of `b` are a pair."""

    spec: Spec
    a: Sequence[float]
    b: Sequence[float]
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each pair."""
        return [one / other for one, other in zip(self.a, self.b, strict=True)]

    @property
    def median(self) -> float:
        """The row's figure."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """From the least to the largest ratio."""
        return f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"

    @property
    def verdict(self) -> str:
        """Whether the goal is reached."""
        goal = self.spec.goal
        if goal is None:
            return ""
        return "holds" if (self.median <= goal if self.spec.at_most else self.median >= goal) else "MISSED"

    @property
    def medians(self) -> str:
        """Both sides in their unit."""
        return f"{statistics.median(self.a):,.4g} : {statistics.median(self.b):,.4g} {self.spec.unit}"

    def told(self) -> str:
        """For the terminal."""
        goal = f", {self.spec.sign} {self.verdict}" if self.spec.goal is not None else ""
        note = f"  ({self.note})" if self.note else ""
        return (
            f"{self.spec.key}: {self.spec.what} : {self.spec.against} = {self.median:.2f} ({self.spread}){goal}"
            f"  [{self.medians}]{note}"
        )


def in_turn(rounds: int, sides: Mapping[str, Side]) -> Figures:
    """Each side once a round, in the same order: the k-th of two figures are a pair."""
    figures: Figures = {}
    for number in range(rounds):
        told = []
        for side in sides.values():
            settle_down()
            for name, figure in side().items():
                figures.setdefault(name, []).append(figure)
                told.append(f"{name} {figure:,.4g}")
        print(f"  {number + 1}: {', '.join(told)}", flush=True)
    return figures


def needed(specs: Sequence[Spec], sides: Mapping[str, Side]) -> dict[str, Side]:
    """Those of the sides that one of the rows needs, in their order."""
    return {name: side for name, side in sides.items() if any(name in spec.needs for spec in specs)}
