"""How much a body holds and how deep it is, told from its bytes before anything is parsed. Pure; called by `intake`.

A body of 16 MiB may hold millions of values, and each costs ten times its bytes once it is an object. So what cannot
be a claim is refused here, by passes over the bytes that run at memory's speed; only counts are taken, nothing is kept.
Whether the body is JSON or CSV at all is the parsers' to say: about one that is neither, anything may be said here.
"""

import re
from typing import Literal

Excess = Literal["nesting", "values", "lines", "columns"]

# Smaller bodies can hold nothing that hurts. They are most of what comes in, and must not pay for the others.
SMALL_BYTES = 64 * 1024
# A line has ten columns, and an amount in quotes up to three commas of its own.
VALUES_A_LINE = 32

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{},"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STRING = re.compile(rb'"[^"]*"?')
_FIRST_LINE = re.compile(rb"[\r\n]*([^\r\n]*)")


def most_values(max_lines: int) -> int:
    """How many values a body may have, counted as here, if it may have that many lines; never few for a small body."""
    return max(VALUES_A_LINE * max_lines, SMALL_BYTES)


def json_excess(body: bytes, max_lines: int, max_nesting: int) -> Excess | None:
    """What a JSON text has too much of: nesting, lines, or values."""
    if len(body) <= SMALL_BYTES and len(body.translate(None, _NOT_BRACKETS)) <= 2 * max_nesting:
        return None
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # in this order: the quotes that are left are real ones
    structure = body.translate(None, _NOT_STRUCTURE)
    most = most_values(max_lines)
    if _values(structure) > most and (excess := _too_many(structure, max_lines, most)):
        return excess
    deep = _too_deep(structure.translate(_ONE_KIND, b","), max_nesting, most)
    return "nesting" if deep else None


def _values(structure: bytes) -> int:
    """Each value comes after a comma or opens a bracket."""
    return structure.count(b",") + structure.count(b"[") + structure.count(b"{")


def _too_many(structure: bytes, max_lines: int, most: int) -> Excess | None:
    """The same again, without what strings hold."""
    structure = structure.replace(b'""', b"")
    if structure.count(b'"') > 4 * most:  # a value and its name have four
        return "values"
    structure = _STRING.sub(b"", structure)
    if _values(structure) <= most:
        return None
    return "lines" if structure.count(b"{") > max_lines + 1 else "values"


def _too_deep(brackets: bytes, max_nesting: int, most: int) -> bool:
    """Each round takes the innermost brackets away; what `max_nesting` rounds leave is deeper, or never closed.

    Brackets of both kinds are of one kind here: whether they match is the parser's to say.
    """
    brackets = brackets.replace(b'""', b"")
    if quotes := brackets.count(b'"'):
        if quotes > 4 * most:
            return False  # more strings than values and names: no JSON
        brackets = _STRING.sub(b"", brackets)
    brackets = brackets[: 2 * brackets.count(b"[")]  # more than these, and one closes what never opened
    for _ in range(max_nesting):
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            break
        brackets = left
    unclosed = len(brackets) - len(brackets.lstrip(b"["))
    return unclosed > max_nesting or b"[]" in brackets


def csv_excess(body: bytes, max_lines: int, max_columns: int) -> Excess | None:
    """What a CSV text has too much of: columns of its header, lines (blank ones, too), or cells."""
    if len(body) <= SMALL_BYTES:
        return None
    breaks = max(body.count(b"\n"), body.count(b"\r"))  # \r\n is one
    if breaks + body.count(b",") <= most_values(max_lines):
        return None
    header = _FIRST_LINE.match(body)
    if header and header[1].count(b",") >= max_columns:
        return "columns"
    return "lines" if breaks > max_lines + 1 else "values"
