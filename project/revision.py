"""Which revision of the tables this build needs, and whether a database has it. Light: no alembic, no SQLAlchemy ORM.

Called by `app` (readiness) and by the supervisor, which need not start a migration that has nothing to do.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

VERSIONS = Path(__file__).parent.parent / "migrations" / "versions"
CURRENT = "SELECT version_num FROM alembic_version"


def known_revisions() -> list[str]:
    """All revisions of this build, oldest first. They are numbered in the names of their files (0001_...)."""
    return sorted(file.name.split("_", 1)[0] for file in VERSIONS.glob("[0-9]*_*.py"))


async def is_migrated(fetch_value: Callable[[str], Awaitable[Any]]) -> bool:
    """True at our newest revision, and at one we do not know: then a newer build has migrated further.

    Raises whatever the database raises when it is away or was never migrated.
    """
    revision = await fetch_value(CURRENT)
    return revision is not None and revision not in known_revisions()[:-1]
