"""What a line must be: the table of rules, and the check of a line against it. Pure; called by `intake`.

To add a rule for a column, change its row in RULES; to add one about a value that is accepted all the same, add it
to `_warnings`. A line is checked to its end: all its faults are reported, never only the first.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import msgspec

from project.claims import columns, values
from project.claims.fees import line_net_fee
from project.claims.lines import Line

NpiCheck = Literal["off", "warn", "strict"]


class Fault(msgspec.Struct, frozen=True):
    """A broken rule. Never holds the value that broke it.

    `line` counts from 1, and is None for the claim as a whole or a CSV header row.
    """

    line: int | None
    field: str
    rule: str
    detail: str


class Rule(NamedTuple):
    """A column's row in the table: where its value goes, how it is read, and whether it may be absent."""

    slot: int
    field: str
    parse: Callable[[object], Any]
    required: bool


_PARSERS: dict[str, Callable[[object], Any]] = {
    "service_dttm": values.service_time,
    "submitted_proc": values.procedure,
    "quadrant": values.quadrant,
    "group_id": values.text,
    "subscriber_id": values.text,
    "provider_npi": values.npi,
    "provider_fees": values.amount,
    "allowed_fees": values.amount,
    "member_co_ins": values.amount,
    "member_co_pay": values.amount,
}
OPTIONAL = frozenset({"quadrant"})
RULES = tuple(Rule(slot, field, _PARSERS[field], field not in OPTIONAL) for slot, field in enumerate(columns.FIELDS))
_RULE_OF = {rule.field: rule for rule in RULES}
_REQUIRED = tuple(rule for rule in RULES if rule.required)
_REQUIRED_PARSERS = tuple(rule.parse for rule in _REQUIRED)


class Plan(NamedTuple):
    """What the columns of a line mean: a rule for each in their order (None: not ours), and their own faults.

    `pick` takes the required cells in the order of RULES, and `quadrant` is the place of that one; both None unless
    every required column is there and none has a fault.
    """

    rules: tuple[Rule | None, ...]
    faults: tuple[tuple[str, str, str], ...]
    known: int
    pick: Callable[[Sequence[object]], tuple[object, ...]] | None
    quadrant: int | None


def plan_of(names: tuple[str, ...]) -> Plan:
    """The plan for these column names. Lines of one sender have the same names, so plans are remembered."""
    return _plan_of(names) if sum(map(len, names)) < 1024 else _plan_of.__wrapped__(names)


@lru_cache(maxsize=1024)
def _plan_of(names: tuple[str, ...]) -> Plan:
    meant: list[Rule | None] = []
    faults: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    taken: set[str] = set()
    for position, name in enumerate(names, 1):
        field = columns.field_of(name)
        if name in seen:
            faults.append((columns.shown(name, position), "duplicate_key", "occurs more than once"))
            field = None
        elif field in taken:
            faults.append((columns.shown(name, position), "duplicate_column", f"means {field}, as another column does"))
            field = None
        elif field is None and columns.is_computed(name):
            faults.append((columns.shown(name, position), "computed", "is worked out by the service; leave it out"))
        elif field is None:
            faults.append((columns.shown(name, position), "unknown_column", "is not a column of a claim line"))
        seen.add(name)
        if field is not None:
            taken.add(field)
        meant.append(_RULE_OF[field] if field is not None else None)
    place = {rule.field: position for position, rule in enumerate(meant) if rule is not None}
    whole = not faults and all(rule.field in place for rule in _REQUIRED)
    pick = itemgetter(*(place[rule.field] for rule in _REQUIRED)) if whole else None
    return Plan(tuple(meant), tuple(faults), len(taken), pick, place.get("quadrant") if whole else None)


def check_line(
    plan: Plan, cells: Sequence[object], line_no: int, npi_check: NpiCheck
) -> tuple[Line | None, Sequence[Fault]]:
    """A line and its warnings, or None and its faults in column order. The plan's own faults are the caller's.

    Nearly all lines have no fault, so that is tried first, in half the time (bench: 1,000 lines); who has to find all
    faults looks at each cell by itself.
    """
    if plan.pick is None:
        return _examined(plan, cells, line_no, npi_check)
    quadrant = cells[plan.quadrant] if plan.quadrant is not None else None
    try:
        when, procedure, group, subscriber, npi, fees, allowed, co_ins, co_pay = [
            parse(cell.strip(" \t") if isinstance(cell, str) else cell)
            for parse, cell in zip(_REQUIRED_PARSERS, plan.pick(cells), strict=True)
        ]
        if quadrant is not None:
            quadrant = quadrant.strip(" \t")  # type: ignore[attr-defined]
            quadrant = values.quadrant(quadrant) if quadrant else None  # empty in CSV, where most lines have none
    except (values.Broken, AttributeError):
        return _examined(plan, cells, line_no, npi_check)
    net_fee = line_net_fee(fees, allowed, co_ins, co_pay)
    line = Line(line_no, when, procedure, quadrant, group, subscriber, npi, fees, allowed, co_ins, co_pay, net_fee)
    return _noted(line, npi_check)


def _examined(
    plan: Plan, cells: Sequence[object], line_no: int, npi_check: NpiCheck
) -> tuple[Line | None, Sequence[Fault]]:
    """The same, cell by cell."""
    found: list[Any] = [None] * len(RULES)
    broken: dict[int, Fault] = {}
    for rule, cell in zip(plan.rules, cells, strict=True):
        if rule is None:
            continue
        value = cell.strip(" \t") if isinstance(cell, str) else cell
        if value is None or value == "":
            continue
        try:
            found[rule.slot] = rule.parse(value)
        except values.Broken as fault:
            broken[rule.slot] = Fault(line_no, rule.field, fault.rule, fault.detail)
    for rule in RULES:
        if found[rule.slot] is None and rule.required and rule.slot not in broken:
            broken[rule.slot] = Fault(line_no, rule.field, "required", "is required")
    if broken:
        return None, [broken[slot] for slot in sorted(broken)]
    line = Line(*[line_no, *found, line_net_fee(*found[6:10])])
    return _noted(line, npi_check)


def _noted(line: Line, npi_check: NpiCheck) -> tuple[Line | None, Sequence[Fault]]:
    """The line with its warnings; or without the line, when a warning is a fault."""
    notes = _warnings(line, npi_check)
    if notes and npi_check == "strict" and any(note.rule == "npi_check_digit" for note in notes):
        return None, [note for note in notes if note.rule == "npi_check_digit"]
    return line, notes


def _warnings(line: Line, npi_check: NpiCheck) -> Sequence[Fault]:
    """What is odd about a line that is accepted all the same."""
    odd_quadrant = line.quadrant is not None and line.quadrant not in values.QUADRANTS
    odd_npi = npi_check != "off" and not values.npi_check_digit_holds(line.provider_npi)
    if not (odd_quadrant or odd_npi):
        return ()
    notes = []
    if odd_quadrant:
        notes.append(Fault(line.line_no, "quadrant", "quadrant", "is not a known quadrant or oral-cavity code"))
    if odd_npi:
        notes.append(Fault(line.line_no, "provider_npi", "npi_check_digit", "has a check digit that does not hold"))
    return notes


def faults_of(plan: Plan, line_no: int | None) -> Sequence[Fault]:
    """The plan's own faults, as faults of this line."""
    return [Fault(line_no, *fault) for fault in plan.faults]
