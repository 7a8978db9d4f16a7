"""The table of API keys, declared once; alembic compares it, `store` writes it, `ring` reads it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, DateTime, LargeBinary, Text, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel


class ApiKey(SQLModel, table=True):
    """A key as far as it is kept: `hash` is the SHA-256 of the whole key. Times are UTC.

    Rows are never deleted: the first one ends the keyless mode for good, and revoked ones are the record of who was
    let in.
    """

    __tablename__ = "api_key"

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    name: str = Field(sa_type=Text, description="the client")
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    scopes: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))
    expires_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    last_used_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
