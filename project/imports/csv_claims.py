"""CSV files of many claims: rows in a row that have the same claim number are a claim. Called by `run` and `parsing`.

A row that cannot be placed (it is not CSV, has not as many cells as the header, or no number) may belong to the claim
before it or to the one after it. Neither is accepted then: a claim must not be stored without one of its lines.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from project.claims import columns
from project.claims.intake import FAULTS_SHOWN, MAX_COLUMNS, too_many_lines
from project.claims.rules import RULES, Fault, Plan, plan_of
from project.errors import ServiceError
from project.imports.reading import INVALID, TOO_LARGE, UNREADABLE, Found, Limits, Position, too_large

LONGEST_ROW = 1024 * 1024  # bytes of one row, however many lines it has; it is held in memory as a whole

NOT_CSV = ("csv", "is not CSV")
TOO_LONG = ("max_bytes", f"must have at most {LONGEST_ROW} bytes")
CELLS = ("cell_count", "must have as many cells as the header")
NO_NUMBER = ("required", "is required in a file of many claims")
NEIGHBOUR = ("unplaced_row", "the row before this claim cannot be placed, and may belong to it")


@dataclass(frozen=True)
class Header:
    """The header row of a file, as it stands there: in `text`, which ends at byte `end` of the file and at its `line`.

    `number` is the column of the claim numbers; None in a file that is one claim.
    """

    text: bytes
    end: int
    line: int
    names: list[str]
    number: int | None


class _TooLong(Exception):
    """A row has more bytes than LONGEST_ROW."""


class _Lines:
    """The lines of a file for csv.reader, a character for each byte, and those that make up the row just read."""

    def __init__(self, stream: io.BufferedReader, offset: int, line: int) -> None:
        self._text = io.TextIOWrapper(stream, "latin-1", newline="")
        self._row: list[str] = []
        self._row_bytes = 0
        self.offset = offset  # of what was taken so far
        self.line = line  # that is read next

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST_ROW)
        if not line:
            raise StopIteration
        self.line += 1
        self._row.append(line)
        self._row_bytes += len(line)
        if self._row_bytes >= LONGEST_ROW:
            self._row.clear()
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(LONGEST_ROW)
                self._row_bytes += len(line)
            raise _TooLong
        return line

    def take(self) -> bytes:
        """The row's own bytes; nothing of one that was too long."""
        text = self._row[0] if len(self._row) == 1 else "".join(self._row)
        self._row.clear()
        self.offset += self._row_bytes
        self._row_bytes = 0
        return text.encode("latin-1")

    def let_go(self) -> None:
        """Leaves the stream open for others."""
        self._text.detach()


def read_header(path: Path, stream: io.BufferedReader, offset: int) -> Header:
    """The first row with a cell. Raises ServiceError when it cannot be the header of any claim."""
    lines = _Lines(stream, offset, 1)
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    try:
        names = next((row for row in reader if row), None)
    except (csv.Error, _TooLong):
        raise ServiceError(f"{path}: its header row is not CSV") from None
    finally:
        text = lines.take()
        lines.let_go()
    if names is None:
        raise ServiceError(f"{path}: has no header row")
    try:
        names = [name.encode("latin-1").decode() for name in names]
    except UnicodeDecodeError:
        raise ServiceError(f"{path}: its header row is not UTF-8") from None
    found = [place for place, name in enumerate(names) if columns.is_claim_number(name)]
    if len(found) > 1:
        raise ServiceError(f"{path}: more than one column is a claim number")
    header = Header(text, lines.offset, lines.line, names, found[0] if found else None)
    if header.number is not None:
        _check(path, header)
    return header


def plan_for(header: Header) -> Plan:
    """What the columns mean, without that of the claim number, which is not a line's."""
    return plan_of(tuple(name for place, name in enumerate(header.names) if place != header.number))


def _check(path: Path, header: Header) -> None:
    """Raises ServiceError with what is wrong: with such a header every claim would be refused."""
    if len(header.names) > MAX_COLUMNS:
        raise ServiceError(f"{path}: has more than {MAX_COLUMNS} columns")
    number = columns.shown(header.names[header.number or 0], (header.number or 0) + 1)
    plan = plan_of(tuple(header.names))
    known = {rule.field for rule in plan.rules if rule}
    wrong = [f"{name} {detail}" for name, _, detail in plan.faults if name != number]
    wrong += [f"{rule.field} is missing" for rule in RULES if rule.required and rule.field not in known]
    if wrong:
        raise ServiceError(f"{path}: its header cannot be used: {'; '.join(wrong[:20])}")


@dataclass(slots=True)
class _Group:
    """The rows of a claim so far."""

    number: str | None
    first: int
    text: bytearray = field(default_factory=bytearray)
    rows: int = 0
    too_large: bool = False
    faults: list[Fault] = field(default_factory=list)

    def add(self, row: bytes, limits: Limits, trouble: tuple[str, str] | None = None) -> None:
        self.rows += 1
        if trouble:
            self.doubt(trouble)
        if self.too_large:
            return
        self.text += row
        if trouble is TOO_LONG or len(self.text) > limits.text_bytes:
            self.too_large = True
            self.text = bytearray()

    def doubt(self, trouble: tuple[str, str]) -> None:
        if len(self.faults) < FAULTS_SHOWN:
            column = "claim_number" if trouble in (NO_NUMBER, NEIGHBOUR) else "line"
            self.faults.append(Fault(self.rows or 1, column, *trouble))

    def found(self, last: int, offset: int, in_doubt: bool, limits: Limits) -> Found:
        status, faults = 0, tuple(self.faults)
        if self.too_large:
            status, faults = TOO_LARGE, faults or (too_large(limits),)
        elif faults:
            status = UNREADABLE if any(fault.rule == NOT_CSV[0] for fault in faults) else INVALID
        elif self.rows > limits.lines:
            status, faults = INVALID, (too_many_lines(limits.lines),)
        return Found(self.first, last, bytes(self.text), offset, in_doubt, status, faults)


def csv_claims(stream: io.BufferedReader, header: Header, start: Position, limits: Limits) -> Iterator[Found]:
    """The claims of a file with claim numbers, from a place between two of them."""
    lines = _Lines(stream, start.offset, start.line)
    try:
        yield from _grouped(lines, header, start.in_doubt, limits)
    finally:
        lines.let_go()


def _grouped(lines: _Lines, header: Header, in_doubt: bool, limits: Limits) -> Iterator[Found]:
    group: _Group | None = None
    for first, number, trouble in _rows(lines, header):
        if group is not None and number == group.number:
            in_doubt = False
        elif trouble:
            in_doubt = True
            group = group or _Group(None, first)
        else:
            if group is not None:
                yield group.found(first - 1, lines.offset, in_doubt, limits)
            group = _Group(number, first)
            if in_doubt:
                group.doubt(NEIGHBOUR)
            in_doubt = False
        group.add(lines.take(), limits, trouble)
    if group is not None:
        yield group.found(lines.line - 1, lines.offset, False, limits)


def _rows(lines: _Lines, header: Header) -> Iterator[tuple[int, str, tuple[str, str] | None]]:
    """Each row's first line, its claim number, and why it cannot be placed. Whoever asks takes its text."""
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    width, column = len(header.names), header.number or 0
    while True:
        first = lines.line
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield first, "", NOT_CSV
            continue
        except _TooLong:
            yield first, "", TOO_LONG
            continue
        if not row:
            lines.take()
            continue
        number = row[column].strip(" \t") if column < len(row) else ""
        if len(row) == width and number:
            yield first, number, None
        else:
            yield first, number, CELLS if len(row) != width else NO_NUMBER
