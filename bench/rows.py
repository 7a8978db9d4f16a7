"""What a measure gives: rows of the table, each a ratio of two sides measured in turn. Used by all measures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.stack import settle_down


@dataclass(frozen=True)
class Row:
    """A ratio A : B. `goal` bounds its median, from below, or from above with `at_most`; None: told, not judged."""

    what: str
    against: str
    explanation: str
    goal: float | None
    a: Sequence[float]
    b: Sequence[float]
    unit: str
    at_most: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.a, self.b, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached."""
        if self.goal is None:
            return None
        return self.median <= self.goal if self.at_most else self.median >= self.goal

    def told(self) -> str:
        """For the terminal, while it runs."""
        sign = "<=" if self.at_most else ">="
        goal = "" if self.goal is None else f", goal {sign} {self.goal:g}: {'holds' if self.holds else 'MISSED'}"
        return (
            f"{self.what} : {self.against} = {self.median:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f}){goal}"
            f"  [{statistics.median(self.a):,.4g} : {statistics.median(self.b):,.4g} {self.unit}]"
        )


def in_turn(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each side once a round, in the same order: the k-th figures of two sides are a pair."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            settle_down()
            figures[name].append(measure())
        print("  " + ", ".join(f"{name} {taken[-1]:,.4g}" for name, taken in figures.items()), flush=True)
    return figures
