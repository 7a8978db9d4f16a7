"""Reads of claims. Called by `routes`. Every read is of one client's claims; what belongs to others is not found.

`client` is None for a caller who sees the claims of all (scope `operate`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from project.claims.lines import Line
from project.claims.models import Claim, ClaimEvent, ClaimLine, ClaimNumber, Payment
from project.ids import first_id_at

LARGE_LINES = 1_000
_OF_LINE: list[Any] = [getattr(ClaimLine, name) for name in Line.__struct_fields__]
_STATE_OF = {"accepted": "due", "reversing": "reversing"}
_OPEN = text("payment.state <> 'paid'")  # as the partial index says it, so that the planner may use that


async def find_claim(
    engine: AsyncEngine, client: str | None, claim_id: UUID, one_large_read: asyncio.Semaphore
) -> tuple[Claim, Sequence[Line]] | None:
    """A claim with its lines in order, both of one instant; None when the client has no such claim.

    Of claims with very many lines one at a time is read, since each holds up the event loop for a while.
    """
    async with AsyncSession(engine) as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        claim = (await session.exec(select(Claim).where(Claim.id == claim_id, *_of(client, Claim.client)))).first()
        if claim is None:
            return None
        # columns, not objects: those of 10,000 lines took 0.2 s to make, these take 0.04 s
        in_order = select(*_OF_LINE).where(ClaimLine.claim_id == claim_id).order_by(col(ClaimLine.line_no))
        async with one_large_read if claim.line_count > LARGE_LINES else nullcontext():
            return claim, [Line(*row) for row in await session.exec(in_order)]


@dataclass(frozen=True, slots=True)
class Reversal:
    """How a claim ended: why (refused or exhausted), when (UTC), and in which dead letter it is kept."""

    reason: str
    at: datetime
    letter_id: UUID


async def find_reversal(engine: AsyncEngine, client: str | None, claim_id: UUID) -> Reversal | None:
    """The last reversal of a claim, told by its events; None when the client has no claim that was reversed.

    A dead letter bears the id of the event claim.reversing that was written with it.
    """
    return _reversals(await find_events(engine, client, claim_id)).get(claim_id)


def _reversals(events: Sequence[ClaimEvent]) -> dict[UUID, Reversal]:
    """The last reversal of each claim that has one, from events in their order."""
    reversing = {event.claim_id: event.id for event in events if event.type == "claim.reversing"}
    return {
        event.claim_id: Reversal(event.detail or "refused", event.at, reversing[event.claim_id])
        for event in events
        if event.type == "claim.reversed"
    }


async def find_replayed(engine: AsyncEngine, client: str, claim_ids: Sequence[UUID]) -> dict[UUID, Claim | Reversal]:
    """The claims of these ids, or how they ended; absent are those that the client never had."""
    own = select(Claim).where(col(Claim.id).in_(claim_ids), col(Claim.client) == client)
    async with AsyncSession(engine) as session:
        found: dict[UUID, Claim | Reversal] = {claim.id: claim for claim in (await session.exec(own)).all()}
        if missing := set(claim_ids) - found.keys():
            events = select(ClaimEvent).where(col(ClaimEvent.claim_id).in_(missing), col(ClaimEvent.client) == client)
            found |= _reversals((await session.exec(events.order_by(col(ClaimEvent.seq)))).all())
    return found


async def find_events(engine: AsyncEngine, client: str | None, claim_id: UUID) -> Sequence[ClaimEvent]:
    """A claim's history, oldest first, also after its reversal; empty when the client has no such claim."""
    of_claim = select(ClaimEvent).where(ClaimEvent.claim_id == claim_id, *_of(client, ClaimEvent.client))
    async with AsyncSession(engine) as session:
        return (await session.exec(of_claim.order_by(col(ClaimEvent.seq)))).all()


async def find_claims(
    engine: AsyncEngine,
    client: str | None,
    *,
    limit: int,
    before: UUID | None,
    provider_npi: str | None,
    status: str | None,
    claim_number: str | None,
    received_after: datetime | None,
    received_before: datetime | None,
) -> Sequence[Claim]:
    """Up to `limit` claims, newest first, that come after `before` in that order and pass all filters.

    Pages follow the ids, which never change, so a traversal meets each claim that was there at its start once.
    """
    wanted: list[ColumnElement[bool]] = _of(client, Claim.client)
    if before is not None:
        wanted.append(col(Claim.id) < before)
    if received_after is not None:
        wanted.append(col(Claim.id) >= first_id_at(received_after))
    if received_before is not None:
        wanted.append(col(Claim.id) < first_id_at(received_before))
    if status == "paid":
        wanted.append(col(Claim.status) == status)
    elif status is not None:
        # Few claims at any time: found by the queue's index, whose rows change in the same transactions.
        open_payments = select(Payment.claim_id).where(Payment.state == _STATE_OF[status], _OPEN)
        wanted.append(col(Claim.id).in_(open_payments))
    if claim_number is not None:
        wanted.append(col(Claim.id).in_(_holder_of(client, claim_number)))
    page = select(Claim).where(*wanted).order_by(col(Claim.id).desc()).limit(limit)
    if provider_npi is not None:
        page = page.join(billed := _billed_by(provider_npi, before), col(Claim.id) == billed.c.claim_id)
    async with AsyncSession(engine) as session:
        return (await session.exec(page)).all()


def _of(client: str | None, column: str) -> list[ColumnElement[bool]]:
    return [] if client is None else [col(column) == client]


def _holder_of(client: str | None, claim_number: str) -> Select[Any]:
    return select(ClaimNumber.claim_id).where(
        ClaimNumber.claim_number == claim_number, *_of(client, ClaimNumber.client)
    )


def _billed_by(provider_npi: str, before: UUID | None) -> Any:
    """Claims with a line of this provider, newest first, straight from the index on (provider_npi, claim_id)."""
    lines = select(ClaimLine.claim_id).where(ClaimLine.provider_npi == provider_npi)
    if before is not None:
        lines = lines.where(col(ClaimLine.claim_id) < before)
    return lines.distinct().order_by(col(ClaimLine.claim_id).desc()).subquery()
