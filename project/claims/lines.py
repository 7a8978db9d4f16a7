"""A claim as `intake` hands it on: lines in their stored form. Pure; used by `ledger`, `batch` and `answers`."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol


class Line(NamedTuple):
    """A line under its canonical names, with its net fee. Amounts are USD with exactly two decimals."""

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


class AnyLine(Protocol):
    """What a parsed line and a row of claim_line have in common."""

    @property
    def service_dttm(self) -> datetime: ...
    @property
    def submitted_proc(self) -> str: ...
    @property
    def quadrant(self) -> str | None: ...
    @property
    def group_id(self) -> str: ...
    @property
    def subscriber_id(self) -> str: ...
    @property
    def provider_npi(self) -> str: ...
    @property
    def provider_fees(self) -> Decimal: ...
    @property
    def allowed_fees(self) -> Decimal: ...
    @property
    def member_co_ins(self) -> Decimal: ...
    @property
    def member_co_pay(self) -> Decimal: ...
    @property
    def net_fee(self) -> Decimal: ...


class ParsedClaim(NamedTuple):
    """A claim without a fault. `warnings` are notes about lines that were accepted all the same."""

    claim_number: str | None
    lines: Sequence[Line]
    net_fee: Decimal
    warnings: Sequence[Any]

    def __repr__(self) -> str:
        """Nothing of the claim."""
        return "<ParsedClaim>"
