"""`python -m bench` (`make bench`): measures every row of the table, prints it, and writes docs/performance.md.

Families of rows are measured one after the other, on one service as far as they can share it; what breaks ends it all
with the end of the broken side's log.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench import growth, machine, memory, report
from bench.families import FAMILIES, SPECS
from bench.ground import Ground
from bench.plan import FULL, QUICK, Plan
from bench.rows import Row, Spec
from bench.stack import FOLDER
from project.tests.service import ROOT


def main(words: Sequence[str]) -> None:
    """Measures what is asked for."""
    chosen = _chosen(words)
    plan = QUICK if chosen.quick else FULL
    changes = {"pairs": chosen.pairs, "slow_pairs": chosen.pairs, "seconds": chosen.seconds}
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    started = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    others = machine.taken_by_others(1 if plan.quick else 5)
    print(f"{'in short, not for its figures; ' if plan.quick else ''}{others}", flush=True)
    rows, ground = measured(plan, chosen.only)
    minutes = (time.monotonic() - started) / 60
    print(*("", *(row.told() for row in rows), f"{minutes:.1f} minutes"), sep="\n")
    if chosen.write or not (plan.quick or chosen.only):
        report.write(rows, ground.curves, plan, others, minutes)
    shutil.rmtree(FOLDER)


def measured(plan: Plan, only: Sequence[str]) -> tuple[list[Row], Ground]:
    """All rows whose key begins with one of `only`, family after family."""
    if not any(_is_wanted(spec, only) for spec in SPECS):
        sys.exit(f"no row is called so; there are: {', '.join(spec.key for spec in SPECS)}")
    rows: list[Row] = []
    with ExitStack() as exits:
        ground = Ground(plan, exits)
        if plan.quick and not only:
            ground.start_together()
        for family in (growth, memory):
            if any(_is_wanted(spec, only) for spec in family.SPECS):
                family.begin(ground)
        for family in FAMILIES:
            wanted = [spec for spec in family.SPECS if _is_wanted(spec, only)]
            if wanted:
                print(f"{family.__name__.rpartition('.')[2]}:", flush=True)
                rows += family.measure(ground, wanted)
        ground.check()
    return rows, ground


def _is_wanted(spec: Spec, only: Sequence[str]) -> bool:
    return not only or any(spec.key.startswith(word) for word in only)


def _chosen(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="all rows in two minutes, printed only")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows whose key begins so; printed only")
    parser.add_argument("--pairs", type=int, help="of each row")
    parser.add_argument("--seconds", type=int, help="of each side")
    parser.add_argument("--write", action="store_true", help="docs/performance.md in any case")
    return parser.parse_args(words)


if __name__ == "__main__":
    os.chdir(ROOT)
    main(sys.argv[1:])
