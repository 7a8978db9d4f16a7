"""A claim as `intake` hands it on, its lines in their stored form. Pure; used by all that follows."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line under its canonical names, numbered from 1, with its net fee. Amounts are USD with exactly two decimals.

    A struct, since it leaves as it stands: `wire` writes its fields in this order (bench: 1,000 lines).
    """

    line_no: int
    service_dttm: datetime
    submitted_proc: str
    quadrant: str | None
    group_id: str
    subscriber_id: str
    provider_npi: str
    provider_fees: Decimal
    allowed_fees: Decimal
    member_co_ins: Decimal
    member_co_pay: Decimal
    net_fee: Decimal

    def __repr__(self) -> str:
        """Nothing of the line: it is PHI, and a repr ends up in logs."""
        return "<Line>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Nothing, as above."""
        return []


class ParsedClaim(NamedTuple):
    """A claim without a fault. `warnings` are notes about lines that were accepted all the same."""

    claim_number: str | None
    lines: Sequence[Line]
    net_fee: Decimal
    warnings: Sequence[Any]

    def __repr__(self) -> str:
        """Nothing of the claim."""
        return "<ParsedClaim>"
