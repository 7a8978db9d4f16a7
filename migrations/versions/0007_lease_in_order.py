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
    op.drop_index("ix_payment_due", table_name="payment")
    op.create_index("ix_payment_due", "payment", ["state", "next_attempt_at", "claim_id"], postgresql_where=OPEN)


def downgrade() -> None:
    op.drop_index("ix_payment_due", table_name="payment")
    op.create_index("ix_payment_due", "payment", ["state", "next_attempt_at"], postgresql_where=OPEN)
