"""The saga's queue, the outbox of events, and dead letters

Revision ID: 0002
Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OPEN = sa.text("state <> 'paid'")
UNPUBLISHED = sa.text("published_at IS NULL")


def upgrade() -> None:
    op.add_column("payment", sa.Column("event_seq", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.create_index("ix_payment_due", "payment", ["state", "next_attempt_at"], postgresql_where=OPEN)
    op.create_index("ix_payment_open", "payment", ["state", "claim_id"], postgresql_where=OPEN)
    op.create_index("ix_claim_event_unpublished", "claim_event", ["claim_id", "seq"], postgresql_where=UNPUBLISHED)
    op.create_index("ix_claim_event_at", "claim_event", ["at"], postgresql_using="brin")
    # Leases rewrite a row in place: room for that in its page, and a vacuum that keeps up with a queue.
    op.execute("ALTER TABLE payment SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)")
    op.execute("ALTER TABLE claim_event SET (autovacuum_vacuum_scale_factor = 0.02)")
    op.create_table(
        "dead_letter",
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column("redrive_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=9), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("line_count", sa.Integer(), nullable=False),
        sa.Column("claim", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("claim_id", "redrive_no"),
    )
    op.create_index("ix_dead_letter_id", "dead_letter", ["id"])
    op.create_index("ix_dead_letter_state", "dead_letter", ["state", "id"])


def downgrade() -> None:
    op.drop_table("dead_letter")
    op.execute("ALTER TABLE claim_event RESET (autovacuum_vacuum_scale_factor)")
    op.execute("ALTER TABLE payment RESET (fillfactor, autovacuum_vacuum_scale_factor)")
    op.drop_index("ix_claim_event_at", table_name="claim_event")
    op.drop_index("ix_claim_event_unpublished", table_name="claim_event")
    op.drop_index("ix_payment_open", table_name="payment")
    op.drop_index("ix_payment_due", table_name="payment")
    op.drop_column("payment", "event_seq")
