"""A claim as it leaves the service, built from a parsed claim or from its rows. Called by `routes`."""

import base64
import binascii
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from project.claims.batch import Busy, KeyReused, NumberTaken
from project.claims.models import ClaimEvent
from project.claims.queries import Reversal
from project.errors import Problem
from project.ids import received_at, rfc3339


def claim(claim_id: UUID, claim_number: str | None, net_fee: Decimal, status: str) -> dict[str, Any]:
    """A claim without its warnings and lines, as GET /claims lists it."""
    return {
        "id": str(claim_id),
        "claim_number": claim_number,
        "net_fee": net_fee,
        "status": status,
        "received_at": received_at(claim_id),
    }


def gone(reversal: Reversal) -> Problem:
    """410: the claim was reversed; why, when, and where it is kept."""
    return Problem(
        410,
        "Gone",
        "the claim was reversed; nothing is paid for it",
        kind="/problems/claim-reversed",
        reason=reversal.reason,
        reversed_at=rfc3339(reversal.at),
        dead_letter=f"/dead-letters/{reversal.letter_id}",
    )


def not_stored(outcome: KeyReused | NumberTaken | Busy) -> Problem:
    """422 or 409: another request has the claim's key or number."""
    match outcome:
        case KeyReused():
            return Problem(
                422,
                "Idempotency-Key reused",
                "this key came with another body before; nothing was stored",
                kind="/problems/idempotency-key-reused",
            )
        case NumberTaken(claim_id):
            return Problem(
                409,
                "Claim number taken",
                "a claim of this number exists; nothing was stored",
                kind="/problems/claim-number-taken",
                headers={"Location": f"/claims/{claim_id}"},
            )
        case Busy():
            return Problem(
                409,
                "Request in progress",
                "a request with the same key or number has not finished; nothing was stored",
                kind="/problems/in-progress",
                headers={"Retry-After": "1"},
            )


def not_shown() -> Problem:
    """503: the claim of an earlier request of the same key is stored, and cannot be read for now."""
    return Problem(
        503,
        "Database away",
        "the claim was stored before, and cannot be read for now",
        kind="/problems/database-away",
        headers={"Retry-After": "2"},
    )


def event(row: ClaimEvent) -> Mapping[str, Any]:
    """An entry of the claim's history."""
    return {
        "seq": row.seq,
        "type": row.type,
        "at": rfc3339(row.at),
        "actor": row.actor,
        "net_fee": row.amount,
        "detail": row.detail,
    }


def cursor_after(last: UUID) -> str:
    """An opaque cursor for what comes after this claim or letter in its listing."""
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def id_of_cursor(cursor: str) -> UUID:
    """The id that a cursor was made after; one that this service did not make is a 422 Problem."""
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        fault = {
            "line": None,
            "field": "cursor",
            "rule": "cursor",
            "detail": "must be a next_cursor of an earlier page",
        }
        raise Problem(422, "Bad query", kind="/problems/bad-query", errors=[fault]) from None
