"""The running total of each provider NPI: written by `claims.ledger` with the claim, read by `ranking`."""

from decimal import Decimal

from sqlalchemy import BigInteger, Column, Index, Numeric, String, text
from sqlmodel import Field, SQLModel

PARTITIONS = 4  # hash partitions; an NPI lives in exactly one, so each can rank its own


class ProviderNetFee(SQLModel, table=True):
    """Sum of the net fees (USD) and number of the live lines of an NPI; without lines it does not rank."""

    __tablename__ = "provider_net_fee"
    __table_args__ = (
        Index(
            "ix_provider_net_fee_ranking",
            text("net_fee DESC"),
            "provider_npi",
            postgresql_where=text("line_count > 0"),
        ),
        {"postgresql_partition_by": "HASH (provider_npi)"},
    )

    provider_npi: str = Field(sa_column=Column(String(10), primary_key=True))
    net_fee: Decimal = Field(sa_column=Column(Numeric(20, 2), nullable=False))
    line_count: int = Field(sa_column=Column(BigInteger, nullable=False))


def partition_name(number: int) -> str:
    """The table that holds partition `number`."""
    return f"provider_net_fee_p{number}"
