"""The rows of a batch: where they are in its body, what claims they hold, and how each is answered. Pure.

Called by `batch_routes`. A batch is NDJSON: each row that is not blank is a claim as POST /claims takes it. Rows are
counted from 1; nothing of one says anything about another.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

from project import wire
from project.claims import intake
from project.claims.batch import NewClaim, large_columns
from project.claims.intake import Refused, Unreadable
from project.errors import Problem
from project.ids import new_id
from project.settings import IntakeSettings

MAX_ROWS = 10_000
# What is read at a time, or one row: about a thousand lines. It takes some 20 ms, and the process has other requests.
SLICE_BYTES = 256 * 1024
SLICE_ROWS = 512
# An answer that names faults may be thirty times its row.
SLICE_ANSWER_BYTES = 256 * 1024

_BOM = b"\xef\xbb\xbf"
_RETURN = ord("\r")
_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_LOOK_BYTES = 1024 * 1024  # a search through blanks keeps all other threads waiting

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose batch it is, and what each of its claims takes along."""

    client: str
    key: str | None
    traceparent: str | None


@dataclass(slots=True)
class Slice:
    """Some rows, in order: a claim to be stored for each, or its answer if there is no such claim.

    `lines` is how many lines all claims have, `refused` how many rows broke which rule.
    """

    rows: list[tuple[int, NewClaim | bytes]] = field(default_factory=list, repr=False)
    refused: Counter[str] = field(default_factory=Counter)
    lines: int = 0

    @property
    def claims(self) -> list[NewClaim]:
        """Those to be stored."""
        return [claim for _, claim in self.rows if isinstance(claim, NewClaim)]


def find_rows(content: bytes) -> list[Place]:
    """Where the rows begin, at what is not blank, and end. Raises Problem: 422 for none or too many."""
    places: list[Place] = []
    at = _next_row(content, len(_BOM) if content.startswith(_BOM) else 0)
    while at is not None:
        end = content.find(b"\n", at)
        end = len(content) if end < 0 else end
        if len(places) == MAX_ROWS:
            raise _invalid("max_rows", f"must have at most {MAX_ROWS} rows")
        places.append((at, end - (content[end - 1] == _RETURN)))
        at = _next_row(content, end)
    if not places:
        raise _invalid("min_rows", "must have at least one row")
    return places


def _next_row(content: bytes, start: int) -> int | None:
    for at in range(start, len(content), _LOOK_BYTES):
        if found := _NOT_BLANK.search(content, at, at + _LOOK_BYTES):
            return found.start()
    return None


def _invalid(rule: str, detail: str) -> Problem:
    fault = {"line": None, "field": "rows", "rule": rule, "detail": detail}
    return Problem(422, "Invalid batch", "nothing was stored", kind="/problems/invalid-batch", errors=[fault])


def read(content: bytes, places: Sequence[Place], first: int, sender: Sender, limits: IntakeSettings) -> Slice:
    """A slice that begins with row `first`. Touches nothing that is shared, so another thread may do it."""
    made = Slice()
    answered = 0
    for row, (start, end) in enumerate(places[first - 1 : first - 1 + SLICE_ROWS], first):
        if made.rows and (end - places[first - 1][0] > SLICE_BYTES or answered > SLICE_ANSWER_BYTES):
            break
        entry: NewClaim | bytes
        if end - start > limits.max_body_bytes:
            entry = problem(row, Problem(413, "Content Too Large", f"at most {limits.max_body_bytes} bytes"))
        else:
            entry = _read_row(content[start:end], row, sender, limits, made.refused)
        made.rows.append((row, entry))
        if isinstance(entry, bytes):
            answered += len(entry)
        else:
            made.lines += len(entry.content.lines)
    return made


def _read_row(text: bytes, row: int, sender: Sender, limits: IntakeSettings, refused: Counter[str]) -> NewClaim | bytes:
    try:
        parsed = intake.parse_json(text, limits.max_lines, limits.npi_check, limits.max_nesting)
    except Unreadable as unreadable:
        refused["unreadable"] += 1
        detail = str(unreadable).replace("the body", "the row", 1)
        return problem(row, Problem(400, "Bad Request", detail, kind="/problems/unreadable"))
    except Refused as broken:
        refused.update({fault.rule for fault in broken.faults})
        return _line({"row": row, "status": 422, "errors": broken.faults})
    if sender.key is None:
        return NewClaim(new_id(), sender.client, parsed, traceparent=sender.traceparent, columns=large_columns(parsed))
    # as for POST /claims, so that a row is the same request there under the row's key
    fingerprint = sha256(b"json\0" + text).digest()
    key = f"{sender.key}/{row}"
    return NewClaim(
        new_id(), sender.client, parsed, key, fingerprint, sender.traceparent, columns=large_columns(parsed)
    )


def accepted(row: int, claim_id: UUID, net_fee: Decimal, warnings: Sequence[Any], *, replayed: bool = False) -> bytes:
    """The answer to a row whose claim is stored, now or (`replayed`) by an earlier request of its key."""
    answer: dict[str, Any] = {"row": row, "status": 201, "id": str(claim_id), "net_fee": net_fee}
    if warnings:
        answer["warnings"] = warnings
    if replayed:
        answer["replayed"] = True
    return _line(answer)


def problem(row: int, told: Problem, claim_id: UUID | None = None) -> bytes:
    """The answer to a row that POST /claims would answer by this problem; what it says in headers is a member here."""
    answer: dict[str, Any] = {"row": row, "status": told.status} | told.body()
    if claim_id is not None:
        answer["id"] = str(claim_id)
    if location := told.headers.get("Location"):
        answer["location"] = location
    if retry_after := told.headers.get("Retry-After"):
        answer["retry_after"] = int(retry_after)
    return _line(answer)


def _line(answer: dict[str, Any]) -> bytes:
    return wire.encode(answer) + b"\n"
