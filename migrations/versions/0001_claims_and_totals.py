"""Claims, their lines, numbers, keys, events and payments; the running totals of providers

Revision ID: 0001
Revises:
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Hash partitions of the totals: an NPI lives in exactly one. More of them later is a migration of its own.
PARTITIONS = 4


def upgrade() -> None:
    op.create_table(
        "claim",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("claim_number", sa.Text(), nullable=True),
        sa.Column("net_fee", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("line_count", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("redrive_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_claim_client", "claim", ["client", "id"], unique=False)
    op.create_table(
        "claim_event",
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("line_count", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("claim_id", "seq"),
    )
    op.create_table(
        "claim_line",
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("line_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("service_dttm", sa.DateTime(), nullable=False),
        sa.Column("submitted_proc", sa.String(length=5), nullable=False),
        sa.Column("quadrant", sa.Text(), nullable=True),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("subscriber_id", sa.Text(), nullable=False),
        sa.Column("provider_npi", sa.String(length=10), nullable=False),
        sa.Column("provider_fees", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("allowed_fees", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("member_co_ins", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("member_co_pay", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("net_fee", sa.Numeric(precision=14, scale=2), nullable=False),
        sa.PrimaryKeyConstraint("claim_id", "line_no"),
    )
    op.create_index("ix_provider_npi", "claim_line", ["provider_npi", "claim_id"], unique=False)
    op.create_table(
        "claim_number",
        sa.Column("claim_number", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("claim_number", "client"),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("client", "key"),
    )
    op.create_index("ix_idempotency_key_created_at", "idempotency_key", ["created_at"], unique=False)
    op.create_table(
        "payment",
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("redrive_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("lease_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("claim_id"),
    )
    op.create_table(
        "provider_net_fee",
        sa.Column("provider_npi", sa.String(length=10), nullable=False),
        sa.Column("net_fee", sa.Numeric(precision=20, scale=2), nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider_npi"),
        postgresql_partition_by="HASH (provider_npi)",
    )
    op.create_index(
        "ix_provider_net_fee_ranking",
        "provider_net_fee",
        [sa.literal_column("net_fee DESC"), "provider_npi"],
        unique=False,
        postgresql_where=sa.text("line_count > 0"),
    )
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE provider_net_fee_p{number} PARTITION OF provider_net_fee "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )


def downgrade() -> None:
    op.drop_index(
        "ix_provider_net_fee_ranking",
        table_name="provider_net_fee",
        postgresql_where=sa.text("line_count > 0"),
    )
    op.drop_table("provider_net_fee")
    op.drop_table("payment")
    op.drop_index("ix_idempotency_key_created_at", table_name="idempotency_key")
    op.drop_table("idempotency_key")
    op.drop_table("claim_number")
    op.drop_index("ix_provider_npi", table_name="claim_line")
    op.drop_table("claim_line")
    op.drop_table("claim_event")
    op.drop_index("ix_claim_client", table_name="claim")
    op.drop_table("claim")
