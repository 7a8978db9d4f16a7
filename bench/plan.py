"""How long and how often is measured: in full for docs/performance.md, or in short to see that all of it works."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """`seconds`: of each side of a pair. `pairs` of most rows; `slow_pairs` of those whose pair takes a minute."""

    quick: bool
    pairs: int = 5
    slow_pairs: int = 5
    seconds: float = 5.0
    warm_s: float = 3.0
    # lines of the growing database, and those that the first of them is compared with; then its NPIs
    first_lines: int = 10_000
    growing_lines: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    growing_npis: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    between_pairs: int = 2  # at sizes on the way to the last one
    churn_minutes: int = 60
    memory_first: int = 10_000  # claims
    memory_last: int = 1_000_000
    memory_samples: int = 5  # at each
    bulk_lines: int = 1_000_000


FULL = Plan(quick=False)
QUICK = Plan(
    quick=True,
    pairs=1,
    slow_pairs=1,
    seconds=1.0,
    warm_s=1.0,
    growing_lines=(100_000,),
    growing_npis=(10_000,),
    between_pairs=1,
    churn_minutes=1,
    memory_first=1_000,
    memory_last=5_000,
    memory_samples=2,
    bulk_lines=20_000,
)
