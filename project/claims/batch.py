"""One batch of claims on its way into the tables: everything between BEGIN and COMMIT. Called by `ledger` alone.

The locks are taken in one order, in every process: idempotency keys, claim numbers, then the claims' own new rows,
and last the provider totals in NPI order (see `statements`). Claims that lose a key or a number leave the batch
before anything of theirs is written.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from project import wire
from project.claims import statements
from project.claims.lines import Line, ParsedClaim
from project.errors import Problem
from project.ids import new_id

LARGE_LINES = 100
Columns = tuple[str, ...]
_joined = statements.SEPARATOR.join


@dataclass(frozen=True, slots=True, eq=False)
class NewClaim:
    """A parsed claim on its way to the ledger. Its id is fixed here, so that a lost COMMIT can be looked up.

    `columns` is what `large_columns` gives for it, or None.
    """

    id: UUID
    client: str
    content: ParsedClaim = field(repr=False)
    key: str | None = None
    fingerprint: bytes = b""
    traceparent: str | None = None
    columns: Columns | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The claim is durably stored."""

    claim_id: UUID


@dataclass(frozen=True, slots=True)
class Replayed:
    """The Idempotency-Key has made a claim of the same body before: this one."""

    claim_id: UUID


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The Idempotency-Key has made a claim of another body before; nothing was stored."""


@dataclass(frozen=True, slots=True)
class NumberTaken:
    """The client already has a live claim of that claim_number: this one; nothing was stored."""

    claim_id: UUID


@dataclass(frozen=True, slots=True)
class Busy:
    """Another request with the same key or number is not finished; nothing was stored, try again."""


Outcome = Accepted | Replayed | KeyReused | NumberTaken | Busy | Problem


async def store(
    connection: Any, claims: Sequence[NewClaim], retention_s: int
) -> tuple[dict[UUID, Outcome], str | None]:
    """Writes the batch inside the open transaction: each claim's outcome if it commits, and the transaction's id.

    The id is None when no claim is left to store.
    """
    outcomes: dict[UUID, Outcome] = {}
    keyed = [claim for claim in claims if claim.key is not None]
    if keyed:
        outcomes |= await _take_keys(connection, keyed, timedelta(seconds=retention_s))
    numbered = [claim for claim in claims if claim.content.claim_number is not None and claim.id not in outcomes]
    if numbered:
        outcomes |= await _take_numbers(connection, numbered)
    left = [claim for claim in claims if claim.id not in outcomes]
    if not left:
        return outcomes, None
    of_claims, of_totals = map(_joined, _claim_columns(left)), map(_joined, _total_columns(left))
    transaction_id = await connection.fetchval(statements.STORE, *of_claims, *_line_columns(left), *of_totals)
    return outcomes | {claim.id: Accepted(claim.id) for claim in left}, transaction_id


async def _take_keys(connection: Any, keyed: Sequence[NewClaim], retention: timedelta) -> dict[UUID, Outcome]:
    """The outcomes of those claims whose key is held already, or is being taken by another process just now."""
    ordered = sorted(keyed, key=lambda claim: (claim.client, claim.key or ""))
    rows = await connection.fetch(
        statements.KEYS,
        [claim.client for claim in ordered],
        [claim.key for claim in ordered],
        [claim.id for claim in ordered],
        [claim.fingerprint for claim in ordered],
        retention,
    )
    won = {row[0] for row in rows}
    lost = [claim for claim in ordered if claim.id not in won]
    if not lost:
        return {}
    rows = await connection.fetch(
        statements.KEYS_HELD, [claim.client for claim in lost], [claim.key for claim in lost], retention
    )
    held = {(client, key): (claim_id, fingerprint) for client, key, claim_id, fingerprint in rows}
    return {claim.id: _held_key(claim, held.get((claim.client, claim.key))) for claim in lost}


def _held_key(claim: NewClaim, holder: tuple[UUID, bytes] | None) -> Outcome:
    if holder is None:
        return Busy()
    claim_id, fingerprint = holder
    return Replayed(claim_id) if fingerprint == claim.fingerprint else KeyReused()


async def _take_numbers(connection: Any, numbered: Sequence[NewClaim]) -> dict[UUID, Outcome]:
    """The outcomes of those claims whose number is held already, or is being taken by another process just now."""
    ordered = sorted(numbered, key=lambda claim: (claim.client, claim.content.claim_number or ""))
    ids = [claim.id for claim in ordered]
    won = {row[0] for row in await connection.fetch(statements.NUMBERS, *_number_columns(ordered), ids)}
    lost = [claim for claim in ordered if claim.id not in won]
    if not lost:
        return {}
    rows = await connection.fetch(statements.NUMBERS_HELD, *_number_columns(lost))
    held = {(number, client): claim_id for number, client, claim_id in rows}
    keyed = [claim for claim in lost if claim.key is not None]
    if keyed:
        await connection.fetch(statements.KEYS_GIVEN_BACK, [c.client for c in keyed], [c.key for c in keyed])
    return {claim.id: _held_number(held.get((claim.content.claim_number, claim.client))) for claim in lost}


def _number_columns(claims: Sequence[NewClaim]) -> tuple[list[str | None], list[str]]:
    return [claim.content.claim_number for claim in claims], [claim.client for claim in claims]


def _held_number(holder: UUID | None) -> Outcome:
    return Busy() if holder is None else NumberTaken(holder)


def _claim_columns(claims: Sequence[NewClaim]) -> tuple[list[str], ...]:
    contents = [claim.content for claim in claims]
    return (
        [str(claim.id) for claim in claims],
        [claim.client for claim in claims],
        [content.claim_number or "" for content in contents],
        [str(content.net_fee) for content in contents],
        [str(len(content.lines)) for content in contents],
        [wire.encode(content.warnings).decode() if content.warnings else "" for content in contents],
        [str(new_id()) for _ in claims],
        [claim.traceparent or "" for claim in claims],
    )


def _line_columns(claims: Sequence[NewClaim]) -> tuple[str, ...]:
    """The lines' rows; in which order, no matter."""
    large = [claim for claim in claims if claim.columns is not None]
    small = [claim for claim in claims if claim.columns is None]
    pieces = [claim.columns for claim in large if claim.columns is not None]
    if small:
        pieces.append(_columns_of([line for claim in small for line in claim.content.lines]))
    ids = [claim_id for claim in (*large, *small) for claim_id in [str(claim.id)] * len(claim.content.lines)]
    return _joined(ids), *map(_joined, zip(*pieces, strict=True))


def large_columns(content: ParsedClaim) -> Columns | None:
    """The columns of a large claim, to be made where it is parsed: beside the event loop, while Postgres is at work on
    others, which waits for them otherwise (bench: 1,000 lines). None for a small one.
    """
    return _columns_of(content.lines) if len(content.lines) >= LARGE_LINES else None


def _columns_of(lines: Sequence[Line]) -> Columns:
    """All columns of `claim_line` but the claim's id, as STORE takes them."""
    return tuple(
        map(
            _joined,
            (
                [str(line.line_no) for line in lines],
                [line.service_dttm.isoformat() for line in lines],
                [line.submitted_proc for line in lines],
                [line.quadrant or "" for line in lines],
                [line.group_id for line in lines],
                [line.subscriber_id for line in lines],
                [line.provider_npi for line in lines],
                [str(line.provider_fees) for line in lines],
                [str(line.allowed_fees) for line in lines],
                [str(line.member_co_ins) for line in lines],
                [str(line.member_co_pay) for line in lines],
                [str(line.net_fee) for line in lines],
            ),
        )
    )


def _total_columns(claims: Sequence[NewClaim]) -> tuple[list[str], ...]:
    """Net fees and lines summed for each NPI, in NPI order."""
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    counts: defaultdict[str, int] = defaultdict(int)
    for claim in claims:
        for line in claim.content.lines:
            fees[line.provider_npi] += line.net_fee
            counts[line.provider_npi] += 1
    npis = sorted(fees)
    return npis, [str(fees[npi]) for npi in npis], [str(counts[npi]) for npi in npis]
