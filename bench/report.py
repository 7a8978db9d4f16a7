"""Writes docs/performance.md and its pictures. Called by `__main__` after a whole run."""

import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from bench import curves, machine, wrk
from bench.database import CLAIM
from bench.families import SPECS
from bench.ground import Curve
from bench.growing import HOT
from bench.plan import Plan
from bench.rows import Row
from bench.stack import DELAY_MS, FOLDER
from project.tests.service import ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"

_HOW = f"""\
Written by `make bench` (`bench/`), not by hand. Machines are shared and noisy, so every figure is a ratio of two
sides measured in turn in one run (A B A B ...): the median of the pairs, and from the least to the largest. All sides
use the project's own embedded Postgres with its settings, `fsync` and `synchronous_commit` on. The service is as
`make run` starts it, worker and stand-in ({DELAY_MS} ms a payment) at work; what it has left to pay is paid before
the other side is measured. Load is wrk's on loopback, {wrk.CLIENTS} connections, warm; wrk takes its part of the same
cores. Every answer must be 2xx, every acknowledged claim must be stored, and at the end the books must balance, or
the run fails."""


def write(rows: Sequence[Row], drawn: Sequence[Curve], plan: Plan, others: str, minutes: float) -> None:
    """The page, from these rows."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    in_short = "**In short (`QUICK=1`): smaller sizes than the rows say, not for its figures.**"
    parts = [
        "# Performance",
        *([in_short] if plan.quick else []),
        _HOW,
        _table(("what", "against", "goal", "median", "spread", "", "A : B"), map(_cells, rows)),
        "## What the rows compare",
        "\n".join(f"- **{row.spec.what}** : {row.spec.against}. {_sentence(row)}" for row in rows),
        *_left_out(rows),
        "## How it grows",
        *(f"![{curve.title}](performance/{curves.draw(curve, PICTURES).name})" for curve in drawn),
        "## Where and when",
        _table(("", ""), [*_machine(others), *_run(plan, minutes)]),
        "## The scripts of pgbench",
        *(f"`bench/{script.name}`:\n\n```sql\n{script.read_text().rstrip()}\n```" for script in (CLAIM, HOT)),
    ]
    PAGE.write_text("\n\n".join(parts) + "\n")


def _left_out(rows: Sequence[Row]) -> list[str]:
    """What was not measured, if anything."""
    missing = [spec.what for spec in SPECS if spec not in [row.spec for row in rows]]
    return [f"Not measured this time: {', '.join(missing)}."] if missing else []


def _machine(others: str) -> list[tuple[str, str]]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    free = f"{others}; what was idle while the service was at work stands with the row of 2 web processes"
    return [*machine.described(FOLDER), ("free", free)]


def _run(plan: Plan, minutes: float) -> list[tuple[str, str]]:
    command = "make bench QUICK=1" if plan.quick else "make bench"
    return [
        ("run", f"`{command}`: {plan.pairs} pairs, {plan.seconds:g} s a side, {minutes:.0f} minutes in all"),
        ("date", f"{datetime.now(UTC):%Y-%m-%d}"),
    ]


def _cells(row: Row) -> tuple[str, ...]:
    spec = row.spec
    return spec.what, spec.against, spec.sign, f"{row.median:.2f}", row.spread, row.verdict, row.medians


def _sentence(row: Row) -> str:
    text = f"{row.spec.explanation[0].upper()}{row.spec.explanation[1:]}."
    return f"{text} {row.note[0].upper()}{row.note[1:]}." if row.note else text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
