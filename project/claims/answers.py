"""A claim as it leaves the service, built from a parsed claim or from its rows. Called by `routes`."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from project.claims.lines import AnyLine
from project.claims.models import ClaimEvent
from project.claims.queries import Reversal
from project.errors import Problem
from project.ids import born_at, rfc3339


def claim(claim_id: UUID, claim_number: str | None, net_fee: Decimal, status: str) -> dict[str, Any]:
    """A claim without its warnings and lines, as GET /claims lists it."""
    return {
        "id": str(claim_id),
        "claim_number": claim_number,
        "net_fee": net_fee,
        "status": status,
        "received_at": rfc3339(born_at(claim_id)),
    }


def lines(of_claim: Iterable[AnyLine]) -> list[dict[str, Any]]:
    """The lines under their canonical names, in their order, numbered from 1."""
    return [
        {
            "line_no": line_no,
            "service_dttm": line.service_dttm.isoformat(),
            "submitted_proc": line.submitted_proc,
            "quadrant": line.quadrant,
            "group_id": line.group_id,
            "subscriber_id": line.subscriber_id,
            "provider_npi": line.provider_npi,
            "provider_fees": line.provider_fees,
            "allowed_fees": line.allowed_fees,
            "member_co_ins": line.member_co_ins,
            "member_co_pay": line.member_co_pay,
            "net_fee": line.net_fee,
        }
        for line_no, line in enumerate(of_claim, 1)
    ]


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
