"""I1 to I4 and I10 as the simulation checks them: by the tables, by payments' own store, by what the hub was given."""

import sqlite3
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from project import audit

AGAIN = ["claim.reversing", "claim.reversed", "claim.redriven"]


class Violation(AssertionError):
    """An invariant does not hold; the message says which, and whose."""


async def is_open(connection: Any) -> bool:
    """Whether any claim is neither paid nor reversed, or any event not published."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM payment WHERE state <> 'paid') "
        "OR EXISTS (SELECT 1 FROM claim_event WHERE published_at IS NULL)"
    )
    return bool(await connection.fetchval(query))


async def check(
    connection: Any,
    payments: sqlite3.Connection,
    claims: Mapping[UUID, Decimal],
    delivered: Sequence[tuple[str, int]],
    whose: str,
) -> None:
    """Checks everything, once quiet; raises Violation. `delivered` are the claims and seqs that the hub took, in order."""

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"{whose}: {what}")

    demand(not await is_open(connection), "I3: work is left when all is quiet")
    demand((await audit.books(connection)).difference == 0, "I4: the books do not balance")
    demand(await audit.torn(connection) == 0, "a claim contradicts its payment")
    query = "SELECT id, status, redrive_no, net_fee FROM claim WHERE id = ANY($1)"
    live = {row["id"]: row for row in await connection.fetch(query, list(claims))}
    for claim_id, net_fee in claims.items():
        query = "SELECT seq, type FROM claim_event WHERE claim_id = $1 ORDER BY seq"
        events = await connection.fetch(query, claim_id)
        demand([event["seq"] for event in events] == list(range(1, len(events) + 1)), "events have gaps")
        types = [event["type"] for event in events if event["type"] != "claim.attempt_failed"]
        query = "SELECT idempotency_key, net_fee FROM payment WHERE claim_id = ? AND status = 'paid'"
        paid = payments.execute(query, (str(claim_id),)).fetchall()
        redrives = types.count("claim.redriven")
        if row := live.get(claim_id):
            demand(types == ["claim.accepted", *AGAIN * redrives, "claim.paid"], f"history {types}")
            demand(row["status"] == "paid", "I3: a live claim is not paid")
            key = f"{claim_id}:{row['redrive_no']}"
            demand(paid == [(key, str(net_fee))], f"I2: {paid} instead of one payment of {key}, {net_fee}")
        else:
            demand(types == ["claim.accepted", *AGAIN * redrives, *AGAIN[:2]], f"I1: gone after {types}")
            demand(paid == [], f"I3: a reversed claim is paid: {paid}")
    seen: dict[str, int] = {}
    for subject, seq in delivered:
        demand(seq <= seen.get(subject, 0) + 1, f"I10: event {seq} of {subject} came first")
        seen[subject] = max(seq, seen.get(subject, 0))
