"""The next release of this service: a copy of it with migrations of the kind that releases have. Used by the restarts."""

import shutil
from pathlib import Path

from project.revision import known_revisions
from project.tests.service import ROOT
from project.tests.system.nginx import replace_in

VERSION = "0.2.0"

MIGRATION = '''"""{title}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    {upgrade}
'''

ADD_A_COLUMN = 'op.add_column("claim", sa.Column("note", sa.Text(), nullable=True))'

# As docs/operations.md tells: alone, since nothing in an autocommit block is undone.
ADD_AN_INDEX = """with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_claim_note")
        op.create_index("ix_claim_note", "claim", ["note"], postgresql_concurrently=True)
"""


def make_next_build(folder: Path) -> Path:
    """Where it is; with PYTHONPATH it runs instead of this one."""
    shutil.copytree(ROOT / "project", folder / "project", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    shutil.copytree(ROOT / "migrations", folder / "migrations")
    shutil.copy(ROOT / "alembic.ini", folder)
    replace_in(folder / "project" / "app.py", 'version="0.1.0"', f'version="{VERSION}"')
    before = known_revisions()[-1]
    for title, upgrade in (("A column", ADD_A_COLUMN), ("An index", ADD_AN_INDEX)):
        revision = f"{int(before) + 1:04}"
        text = MIGRATION.format(title=title, revision=revision, before=before, upgrade=upgrade)
        (folder / "migrations" / "versions" / f"{revision}_next.py").write_text(text)
        before = revision
    return folder
