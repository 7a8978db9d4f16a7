"""The claims that all sides of a comparison are given: from one seed, one a line of a file."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

NPIS = 10_000
ZIPF = 1.1
_FIRST_NPI = 1_000_000_000
_PROCEDURES = ("D0120", "D0180", "D0274", "D1110", "D2391", "D4211", "D4346", "D7140")
_QUADRANTS = (None, None, "UR", "UL", "LL", "LR")

Draw = Callable[[random.Random], str]


def uniform(npis: int = NPIS) -> Draw:
    """NPIs that are all as likely."""
    return lambda dice: str(_FIRST_NPI + dice.randrange(npis))


def zipf(npis: int = NPIS, exponent: float = ZIPF) -> Draw:
    """NPIs of which the n-th is n ** exponent times less likely than the first."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, npis + 1)))
    numbers = range(npis)
    return lambda dice: str(_FIRST_NPI + dice.choices(numbers, cum_weights=weights)[0])


def lines(count: int, npi: Draw, dice: random.Random) -> list[dict[str, object]]:
    """So many lines of a claim under their canonical names."""
    return [
        {
            "service_dttm": f"2018-{dice.randint(1, 12):02d}-{dice.randint(1, 28):02d} 00:00:00",
            "submitted_proc": dice.choice(_PROCEDURES),
            "quadrant": dice.choice(_QUADRANTS),
            "group_id": f"GRP-{dice.randint(1000, 1099)}",
            "subscriber_id": str(dice.randint(10**9, 10**10 - 1)),
            "provider_npi": npi(dice),
            "provider_fees": dice.randint(100, 99_999) / 100,
            "allowed_fees": dice.randint(100, 99_999) / 100,
            "member_co_ins": dice.randint(0, 9_999) / 100,
            "member_co_pay": dice.randint(0, 9_999) / 100,
        }
        for _ in range(count)
    ]


def claims(count: int, of_lines: int, npi: Draw | None = None, seed: int = 1) -> Iterator[str]:
    """JSON texts of so many claims."""
    dice = random.Random(seed)  # noqa: S311
    draw = npi or uniform()
    for _ in range(count):
        yield json.dumps(lines(of_lines, draw, dice), separators=(",", ":"))


def written(file: Path, count: int, of_lines: int, npi: Draw | None = None, seed: int = 1) -> Path:
    """The same, one a line of this file."""
    file.write_text("".join(f"{claim}\n" for claim in claims(count, of_lines, npi, seed)))
    return file
