"""The claim's tables, declared once; alembic compares them, `ledger` writes them, `queries` reads them.

There are no foreign keys between them: one writer (`ledger`) keeps them together in one transaction, and a
trigger for each line would be paid on every commit (docs/decisions/0007-no-foreign-keys.md).
Every unique key holds the column that its table would be partitioned or distributed by.
Amounts are USD. Times are UTC, but for `service_dttm`, which is the wall clock where the service took place.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import NaiveDatetime
from sqlalchemy import Column, DateTime, Index, LargeBinary, Numeric, String, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class Claim(SQLModel, table=True):
    """One submission. `received_at` is not stored: it is the millisecond in the id (UUID v7)."""

    __tablename__ = "claim"
    __table_args__ = (Index("ix_claim_client", "client", "id"),)

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    client: str = Field(sa_type=Text)
    claim_number: str | None = Field(default=None, sa_type=Text)
    net_fee: Decimal = Field(sa_column=Column(Numeric(18, 2), nullable=False))
    line_count: int
    status: str = Field(sa_column=Column(String(9), nullable=False), description="accepted, paid, reversing")
    redrive_no: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    warnings: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSONB))
    paid_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))


class ClaimLine(SQLModel, table=True):
    """A line under its canonical column names, with its net fee."""

    __tablename__ = "claim_line"
    __table_args__ = (Index("ix_provider_npi", "provider_npi", "claim_id"),)

    claim_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    line_no: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    service_dttm: NaiveDatetime = Field(sa_column=Column(DateTime(timezone=False), nullable=False))
    submitted_proc: str = Field(sa_column=Column(String(5), nullable=False))
    quadrant: str | None = Field(default=None, sa_type=Text)
    group_id: str = Field(sa_type=Text)
    subscriber_id: str = Field(sa_type=Text, description="PHI: leaves the service in a claim's own body only")
    provider_npi: str = Field(sa_column=Column(String(10), nullable=False))
    provider_fees: Decimal = Field(sa_column=Column(Numeric(12, 2), nullable=False))
    allowed_fees: Decimal = Field(sa_column=Column(Numeric(12, 2), nullable=False))
    member_co_ins: Decimal = Field(sa_column=Column(Numeric(12, 2), nullable=False))
    member_co_pay: Decimal = Field(sa_column=Column(Numeric(12, 2), nullable=False))
    net_fee: Decimal = Field(sa_column=Column(Numeric(14, 2), nullable=False))


class ClaimNumber(SQLModel, table=True):
    """Who holds a claim number; it leads the key, so that operators find it among all clients."""

    __tablename__ = "claim_number"

    claim_number: str = Field(sa_column=Column(Text, primary_key=True))
    client: str = Field(sa_column=Column(Text, primary_key=True))
    claim_id: UUID


class IdempotencyKey(SQLModel, table=True):
    """Which claim a client's Idempotency-Key made, and the digest of the body that came with it."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index("ix_idempotency_key_created_at", "created_at"),)

    client: str = Field(sa_column=Column(Text, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    claim_id: UUID
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))


class ClaimEvent(SQLModel, table=True):
    """A transition of a claim: history, audit trail and outbox in one. Rows are only ever added; no PHI."""

    __tablename__ = "claim_event"
    __table_args__ = (
        Index("ix_claim_event_unpublished", "claim_id", "seq", postgresql_where=text("published_at IS NULL")),
        Index("ix_claim_event_at", "at", postgresql_using="brin"),
    )

    claim_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seq: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    id: UUID
    type: str = Field(sa_type=Text)
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))
    actor: str = Field(sa_type=Text)
    client: str = Field(sa_type=Text)
    amount: Decimal = Field(sa_column=Column(Numeric(18, 2), nullable=False))
    line_count: int
    detail: str | None = Field(default=None, sa_type=Text)
    published_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    traceparent: str | None = Field(default=None, sa_column=Column(String(55)), description="as the payment's was then")


class Payment(SQLModel, table=True):
    """What is due for a claim: at once the saga's state and its queue. It ends with the claim's reversal.

    `lease_no` grows with each lease and fences what the holder of an earlier one does. `event_seq` is the seq of the
    claim's last event: whoever holds this row's lock may write the next. `last_error` holds no PHI.
    """

    __tablename__ = "payment"
    __table_args__ = (
        Index("ix_payment_due", "state", "next_attempt_at", "claim_id", postgresql_where=text("state <> 'paid'")),
        Index("ix_payment_open", "state", "claim_id", postgresql_where=text("state <> 'paid'")),
    )

    claim_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    redrive_no: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    state: str = Field(sa_column=Column(String(9), nullable=False), description="due, paid or reversing")
    lease_no: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    next_attempt_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now())
    )
    leased_until: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    payment_id: str | None = Field(default=None, sa_type=Text)
    last_error: str | None = Field(default=None, sa_type=Text)
    event_seq: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    traceparent: str | None = Field(
        default=None, sa_column=Column(String(55)), description="W3C: of the request that made it due"
    )
