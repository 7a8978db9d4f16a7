"""The planner's statistics hold no subscriber ids

ANALYZE copies the commonest values of a column into pg_statistic, where they would outlive the rows that were erased.
Nothing is ever looked up by these columns, so nothing is lost. Changing a type to itself rewrites no row, and has
Postgres forget the statistics that it has (pg_clear_attribute_stats would do, but is new in 18).

Revision ID: 0004
Revises: 0003
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

PHI = (("claim_line", "subscriber_id", "text"), ("dead_letter", "claim", "jsonb"))


def upgrade() -> None:
    for table, column, kind in PHI:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0, ALTER COLUMN {column} TYPE {kind}")


def downgrade() -> None:
    for table, column, _ in PHI:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS -1")
