"""The table of imports, declared once; alembic compares it, `runs` and `storing` write it.

There are a few rows of it for each file, so it is never distributed, and its unique key need not hold its id.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    LargeBinary,
    Numeric,
    String,
    Text,
    Uuid,
    func,
    text,
)
from sqlmodel import Field, SQLModel


def _count(default: str = "0") -> Column[int]:
    return Column(BigInteger, nullable=False, server_default=text(default))


class ImportRun(SQLModel, table=True):
    """One import of one file for one client, and how far it has come.

    `next_row` counts claims, `next_line` the lines of the file, both from 1; `position` the bytes of the file,
    unpacked, that are done with. They move on in the transaction that stores the claims before them.
    """

    __tablename__ = "import_run"
    __table_args__ = (
        Index("ix_import_run_running", "digest", "client", unique=True, postgresql_where=text("state = 'running'")),
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    digest: bytes = Field(
        sa_column=Column(LargeBinary, nullable=False), description="SHA-256 of the file as it lies on disk"
    )
    client: str = Field(sa_type=Text)
    path: str = Field(sa_type=Text)
    format: str = Field(sa_column=Column(String(6), nullable=False), description="csv or ndjson")
    size: int = Field(sa_column=Column(BigInteger, nullable=False), description="bytes on disk")
    state: str = Field(sa_column=Column(String(8), nullable=False), description="running, finished or given_up")
    next_row: int = Field(default=1, sa_column=_count("1"))
    next_line: int = Field(default=1, sa_column=_count("1"))
    position: int = Field(default=0, sa_column=_count())
    in_doubt: bool = Field(
        default=False,
        sa_column=Column(Boolean, nullable=False, server_default=text("false")),
        description="a line before `position` may belong to the claim after it",
    )
    accepted: int = Field(default=0, sa_column=_count(), description="claims")
    refused: int = Field(default=0, sa_column=_count(), description="claims")
    lines: int = Field(default=0, sa_column=_count(), description="of accepted claims")
    net_fee: Decimal = Field(
        default=Decimal(0), sa_column=Column(Numeric(20, 2), nullable=False, server_default=text("0"))
    )
    refused_path: str = Field(sa_type=Text)
    refused_bytes: int = Field(default=0, sa_column=_count(), description="of that file that are certainly written")
    started_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now()))
    finished_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
