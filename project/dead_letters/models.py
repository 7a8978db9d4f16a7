"""The dead letter's table, declared once; alembic compares it, `queue` and the saga write it."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Column, DateTime, Index, Numeric, String, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class DeadLetter(SQLModel, table=True):
    """A payment that was refused or used up, with the whole claim, so that it can be sent again.

    Its id is that of the event (claim.reversing) that was written with it. `claim` is PHI and is emptied when the
    letter is redriven (the claim is back in its own tables) or discarded. Times are UTC.
    """

    __tablename__ = "dead_letter"
    __table_args__ = (Index("ix_dead_letter_id", "id"), Index("ix_dead_letter_state", "state", "id"))

    claim_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    redrive_no: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    id: UUID
    client: str = Field(sa_type=Text)
    reason: str = Field(sa_column=Column(String(9), nullable=False), description="refused or exhausted")
    detail: str = Field(sa_type=Text, description="in our own words; no PHI")
    attempts: int
    amount: Decimal = Field(sa_column=Column(Numeric(18, 2), nullable=False))
    line_count: int
    claim: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    state: str = Field(
        sa_column=Column(String(9), nullable=False), description="waiting, reversed, redriven or discarded"
    )
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))
    closed_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
