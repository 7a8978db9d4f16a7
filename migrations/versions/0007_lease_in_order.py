"""The index of due payments has the order in which they are leased

Revision ID: 0007
Revises: 0006
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OPEN = sa.text("state <> 'paid'")


def upgrade() -> None:
    # With only a part of the order in the index, a lease sorts all payments of one instant, or all that are due.
    _replace(["state", "next_attempt_at", "claim_id"])


def downgrade() -> None:
    _replace(["state", "next_attempt_at"])


def _replace(columns: list[str]) -> None:
    """While claims come in and are paid. What an attempt before this one left half made goes first."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_payment_due_new")
        op.create_index("ix_payment_due_new", "payment", columns, postgresql_where=OPEN, postgresql_concurrently=True)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_payment_due")
        op.execute("ALTER INDEX ix_payment_due_new RENAME TO ix_payment_due")
