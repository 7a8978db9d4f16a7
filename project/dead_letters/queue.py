"""The dead-letter queue as operators use it: look, send again, give up. Called by `routes` and by the command line.

The saga writes the letters (payments.statements.GIVEN_UP) and closes them when the claim is reversed. Reads go over
the tables, changes over one bare connection and one transaction each.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, cast
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from project.claims.statements import TOTALS
from project.dead_letters import statements
from project.dead_letters.models import DeadLetter
from project.errors import Problem
from project.ids import first_id_at, new_id


@dataclass(frozen=True, slots=True)
class Redriven:
    """The claim is accepted again, under its own id, and its payment is due under the next redrive number."""

    claim_id: UUID
    redrive_no: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters: by state, by reason, made at or after and before an instant."""

    state: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_SUMMARY = [getattr(DeadLetter, name) for name in DeadLetter.model_fields if name != "claim"]


async def find_letters(
    engine: AsyncEngine, wanted: Filter, *, limit: int, before: UUID | None = None
) -> Sequence[DeadLetter]:
    """Up to `limit` letters of all clients, newest first, after `before` in that order; without their claims."""
    where: list[ColumnElement[bool]] = []
    if wanted.state is not None:
        where.append(col(DeadLetter.state) == wanted.state)
    if wanted.reason is not None:
        where.append(col(DeadLetter.reason) == wanted.reason)
    if wanted.since is not None:
        where.append(col(DeadLetter.id) >= first_id_at(wanted.since))
    if wanted.until is not None:
        where.append(col(DeadLetter.id) < first_id_at(wanted.until))
    if before is not None:
        where.append(col(DeadLetter.id) < before)
    page = select(*_SUMMARY).where(*where).order_by(col(DeadLetter.id).desc()).limit(limit)
    async with AsyncSession(engine) as session:
        return [DeadLetter(**row._mapping) for row in (await session.exec(page)).all()]


async def find_letter(engine: AsyncEngine, letter_id: UUID) -> DeadLetter | None:
    """One letter with its claim, if that is still in it; amounts are Decimals with their own digits."""
    # as text, since the driver's own JSON would turn the amounts into floats
    columns: list[Any] = [*_SUMMARY, cast(DeadLetter.claim, Text).label("claim")]
    query = select(*columns).where(DeadLetter.id == letter_id)
    async with AsyncSession(engine) as session:
        found = (await session.exec(query)).first()
    if found is None:
        return None
    members = dict(found._mapping)
    claim = members.pop("claim")
    return DeadLetter(**members, claim=None if claim is None else json.loads(claim, parse_float=Decimal))


async def redrive(connection: Any, letter_id: UUID, actor: str, traceparent: str | None = None) -> Redriven:
    """Sends a reversed claim again, from now on as part of this trace; of two that try at once, one does.

    Raises a Problem: 404 no such letter; 409 its claim is not reversed (any more), or its number is another's.
    """
    async with connection.transaction():
        taken = await connection.fetchrow(statements.TAKE_OUT, letter_id)
        if taken is None:
            raise await _refusal(connection, letter_id)
        claim_id, redrive_no, claim, client, amount, line_count, number = taken
        if number is not None:
            await connection.fetch(statements.LOCK_NUMBER, client, number)
            holder = await connection.fetchval(statements.TAKE_NUMBER, client, number, claim_id)
            if holder != claim_id:
                raise _number_taken(holder)
        arguments = claim_id, redrive_no + 1, client, claim, amount, line_count, new_id(), actor, traceparent
        added = await connection.fetch(statements.RESTORE, *arguments)
        await connection.fetch(TOTALS, *([row[column] for row in added] for column in range(3)))
    return Redriven(claim_id, redrive_no + 1)


async def discard(connection: Any, letter_id: UUID, actor: str) -> UUID:
    """Gives a reversed claim up for good and erases it; the claim's id. Raises as `redrive` does."""
    async with connection.transaction():
        claim_id: UUID | None = await connection.fetchval(statements.DISCARD, letter_id, new_id(), actor)
        if claim_id is None:
            raise await _refusal(connection, letter_id)
    return claim_id


async def _refusal(connection: Any, letter_id: UUID) -> Problem:
    if not await connection.fetchval(statements.EXISTS, letter_id):
        return not_found()
    return Problem(
        409, "Not reversed", "only a letter in state reversed can be changed", kind="/problems/letter-not-reversed"
    )


def not_found() -> Problem:
    """404: there is no such letter, or its retention is over."""
    return Problem(404, "Not Found", "there is no such dead letter")


def _number_taken(holder: UUID) -> Problem:
    return Problem(
        409,
        "Claim number taken",
        "another claim has taken this claim's number since; nothing was changed",
        kind="/problems/claim-number-taken",
        headers={"Location": f"/claims/{holder}"},
    )
