"""From the bytes of a body to a claim, or to all of its faults. Pure; called by `routes`.

parse() is the only way in: it decodes JSON or CSV, finds out what the columns mean, checks every line, and adds up.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

import jiter

from project.claims import columns, shape, values
from project.claims.fees import claim_net_fee
from project.claims.lines import Line, ParsedClaim
from project.claims.rules import RULES, Fault, NpiCheck, Plan, check_line, faults_of, plan_of

FAULTS_SHOWN = 1000
# Nobody's table is wider; naming what is wrong with a million columns would hold the process up for seconds.
MAX_COLUMNS = 200
_TOO_WIDE = ("max_columns", f"must have at most {MAX_COLUMNS} columns")
_BOM = b"\xef\xbb\xbf"
_PLACE = re.compile(r"line \d+ column \d+\Z")
# With fewer columns recognised than this, a header row is more likely the first line of a file without one.
_HALF_OF_REQUIRED = sum(rule.required for rule in RULES) // 2 + 1


class Refused(Exception):
    """The claim breaks rules: `faults` are all of them, at most the first FAULTS_SHOWN, by line and column."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.faults = faults[:FAULTS_SHOWN]


class Unreadable(Exception):
    """The body is not JSON, or not CSV; the text says where it stops being so, never what stands there."""


def parse(kind: str, body: bytes, max_lines: int, npi_check: NpiCheck, max_nesting: int = 16) -> ParsedClaim:
    """The claim in a body of `kind` json or csv. Raises Refused with all faults, or Unreadable; nothing else."""
    if kind == "json":
        return parse_json(body, max_lines, npi_check, max_nesting)
    return parse_csv(body, max_lines, npi_check)


def parse_json(body: bytes, max_lines: int, npi_check: NpiCheck, max_nesting: int) -> ParsedClaim:
    """An array of lines, or an object with `lines` and perhaps a `claim_number`. See `parse` for what it raises."""
    excess = shape.json_excess(body, max_lines, max_nesting)
    if excess == "nesting":
        raise Unreadable(f"the body is nested deeper than {max_nesting} levels")
    if excess:
        raise _too_much(excess, max_lines)
    document = _decoded(body.removeprefix(_BOM), max_lines)
    faults: list[Fault] = []
    number, lines = None, document
    if isinstance(document, dict | _Pairs):
        number, lines = _unwrapped(document, faults)
    if not isinstance(lines, list):
        faults.append(Fault(None, "lines", "type", "must be an array of claim lines"))
        raise Refused(faults)
    _check_count(len(lines), max_lines, faults)
    return _claim(number, _json_lines(lines, npi_check), faults)


class _Pairs:
    """A JSON object with a key that occurs twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.names = tuple(name for name, _ in pairs)
        self.cells = [cell for _, cell in pairs]


def _decoded(body: bytes, max_lines: int) -> Any:
    """JSON with exact decimals. Objects are dicts, or _Pairs throughout if a key occurs twice anywhere.

    With more than `max_lines` lines it is told of nothing else, so the slower way is not taken for it.
    """
    try:
        # names are the same in each line, values are not: to look for them again costs more than to make them
        return jiter.from_json(
            body, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="decimal", cache_mode="keys"
        )
    except ValueError:
        pass
    try:  # a duplicate key is a fault to report beside the others; anything else is not JSON
        document = jiter.from_json(body, allow_inf_nan=False, float_mode="decimal")
        if isinstance(document, list) and len(document) > max_lines:
            return document
        del document
        return json.loads(body, object_pairs_hook=_Pairs, parse_float=Decimal)
    except ValueError as error:
        place = _PLACE.search(str(error))
        raise Unreadable(f"the body is not JSON: {place[0]}" if place else "the body is not JSON") from None


def _unwrapped(document: Any, faults: list[Fault]) -> tuple[str | None, Any]:
    """The claim number and the lines of a claim object; other members are faults."""
    names, cells = _members(document)
    if len(names) > MAX_COLUMNS:
        raise Refused([Fault(None, "claim", *_TOO_WIDE)])
    found: dict[str, Any] = {}
    for position, (name, cell) in enumerate(zip(names, cells, strict=True), 1):
        member = columns.fold(name) if len(name) <= columns.LONGEST_NAME else ""
        if member not in ("claimnumber", "lines"):
            rule = "computed" if columns.is_computed(name) else "unknown_column"
            faults.append(Fault(None, columns.shown(name, position), rule, "is not a member of a claim"))
        elif member in found:
            faults.append(Fault(None, columns.shown(name, position), "duplicate_key", "occurs more than once"))
        else:
            found[member] = cell
    if found.get("lines") is None:
        faults.append(Fault(None, "lines", "required", "is required"))
        raise Refused(faults)
    return _claim_number(found.get("claimnumber"), faults), found["lines"]


def _claim_number(cell: object, faults: list[Fault]) -> str | None:
    value = cell.strip(" \t") if isinstance(cell, str) else cell
    if value is None or value == "":
        return None
    try:
        return values.text(value)
    except values.Broken as broken:
        faults.append(Fault(None, "claim_number", broken.rule, broken.detail))
        return None


def _members(document: Any) -> tuple[tuple[str, ...], Sequence[Any]]:
    if isinstance(document, _Pairs):
        return document.names, document.cells
    return tuple(document), tuple(document.values())


def _check_count(count: int, max_lines: int, faults: list[Fault]) -> None:
    if count == 0:
        faults.append(Fault(None, "lines", "min_lines", "must have at least one line"))
    elif count > max_lines:
        faults.append(too_many_lines(max_lines))
    else:
        return
    raise Refused(faults)


def too_many_lines(max_lines: int) -> Fault:
    """The fault of a claim that has more."""
    return Fault(None, "lines", "max_lines", f"must have at most {max_lines} lines")


def _too_much(excess: shape.Excess, max_lines: int) -> Refused:
    """What is told of a body that holds too much to be looked at closely: this one fault."""
    if excess == "columns":
        return Refused([Fault(None, "header", *_TOO_WIDE)])
    if excess == "lines":
        return Refused([too_many_lines(max_lines)])
    detail = f"must have at most {shape.most_values(max_lines)} values in all"
    return Refused([Fault(None, "lines", "max_values", detail)])


_Checked = Iterator[tuple[Line | None, Sequence[Fault]]]


def _json_lines(lines: list[Any], npi_check: NpiCheck) -> _Checked:
    plan = plan_of(())
    known: tuple[str, ...] = ()  # lines of one claim mostly have the same names
    for line_no, line in enumerate(lines, 1):
        if not isinstance(line, dict | _Pairs):
            yield None, [Fault(line_no, "line", "type", "must be an object")]
            continue
        names, cells = _members(line)
        if len(names) > MAX_COLUMNS:
            yield None, [Fault(line_no, "line", *_TOO_WIDE)]
            continue
        if names != known:
            plan, known = plan_of(names), names
        checked, notes = check_line(plan, cells, line_no, npi_check)
        if plan.faults:
            yield None, [*faults_of(plan, line_no), *(notes if checked is None else ())]
        else:
            yield checked, notes


def parse_csv(body: bytes, max_lines: int, npi_check: NpiCheck) -> ParsedClaim:
    """A header row and a row for each line. See `parse` for what it raises."""
    if excess := shape.csv_excess(body, max_lines, MAX_COLUMNS):
        raise _too_much(excess, max_lines)
    header, rows = _csv_rows(body, max_lines + 1)
    if len(header) > MAX_COLUMNS:
        raise Refused([Fault(None, "header", *_TOO_WIDE)])
    plan = plan_of(tuple(header))
    faults = _header_faults(plan)
    _check_count(len(rows), max_lines, faults)
    return _claim(None, _csv_lines(plan, len(header), rows, npi_check), faults)


def parse_rows(
    number: str, plan: Plan, width: int, rows: list[list[str]], max_lines: int, npi_check: NpiCheck
) -> ParsedClaim:
    """A claim of CSV rows that somebody else has read, under a header without faults. Raises Refused."""
    faults: list[Fault] = []
    claim_number = _claim_number(number, faults)
    _check_count(len(rows), max_lines, faults)
    return _claim(claim_number, _csv_lines(plan, width, rows, npi_check), faults)


def _csv_rows(body: bytes, most: int) -> tuple[list[str], list[list[str]]]:
    """The header and at most `most` rows; rows without any cell are not rows.

    The text is decoded as it is read: all of it at once could take eight times the body's bytes.
    """
    try:
        text = io.TextIOWrapper(io.BytesIO(body.removeprefix(_BOM)), "utf-8", newline="")
        reader = csv.reader(text, strict=True, skipinitialspace=True)
        filled = (row for row in reader if row)
        header = next(filled, None)
        rows = list(islice(filled, most))
    except UnicodeDecodeError:
        raise Unreadable(_not_utf8(body)) from None
    except csv.Error:
        raise Unreadable(f"the body is not CSV: line {reader.line_num}") from None
    if header is None:
        raise Refused([Fault(None, "header", "header", "a header row with the names of the columns must come first")])
    return header, rows


def _not_utf8(body: bytes) -> str:
    """Where it ceases to be; who read it in pieces knows only the place within a piece."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8: byte {error.start + 1}"
    raise AssertionError("what could not be decoded in pieces cannot be decoded whole")


def _header_faults(plan: Plan) -> list[Fault]:
    if plan.known == 0:
        raise Refused([Fault(None, "header", "header", "a header row with the names of the columns must come first")])
    if plan.known >= _HALF_OF_REQUIRED:
        return list(faults_of(plan, None))
    return [Fault(None, "header", rule, detail) for _, rule, detail in plan.faults]


def _csv_lines(plan: Plan, width: int, rows: list[list[str]], npi_check: NpiCheck) -> _Checked:
    for line_no, row in enumerate(rows, 1):
        if len(row) == width:
            yield check_line(plan, row, line_no, npi_check)
        else:
            yield None, [Fault(line_no, "line", "cell_count", "must have as many cells as the header")]


def _claim(number: str | None, checked: _Checked, faults: list[Fault]) -> ParsedClaim:
    """Puts the lines together if no fault was found so far and none of them has one."""
    lines: list[Line] = []
    warnings: list[Fault] = []
    for line, notes in checked:
        if line is None:
            faults.extend(notes)
            if len(faults) >= FAULTS_SHOWN:
                break
        else:
            lines.append(line)
            warnings.extend(notes)
    if faults:
        raise Refused(faults)
    return ParsedClaim(number, lines, claim_net_fee(line.net_fee for line in lines), warnings)
