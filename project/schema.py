"""Migrations: `python -m project.schema` brings the database up to this build, and makes the first API keys where they
are given (API_KEYS). Called by the supervisor and `cli`.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config

from project import db, settings
from project.errors import ServiceError
from project.security import first_keys
from project.telemetry import logs

ROOT = Path(__file__).parent.parent


def config(database_url: str | None = None) -> Config:
    """Alembic's configuration, pointed at `database_url` or else at the settings' database."""
    made = Config(ROOT / "alembic.ini")
    made.attributes["database_url"] = database_url
    return made


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrates up, each migration in a transaction; processes that do so at once wait for each other."""
    command.upgrade(config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Migrates down to `revision` (`base`: nothing left)."""
    command.downgrade(config(database_url), revision)


def main() -> None:
    """Migrates the settings' database and makes the keys of API_KEYS that are not there yet.

    Raises ServiceError, one line for a person, when it is away or a line of API_KEYS is wrong.
    """
    chosen = settings.load()
    logs.configure(chosen.logging, "migrate")
    given = chosen.keys.api_keys
    wanted = first_keys.parse(given.get_secret_value()) if given else []  # before anything is changed
    url = db.database_url(chosen.storage)
    try:
        upgrade(url)
        made = asyncio.run(_make_keys(url, wanted)) if wanted else 0
    except db.AWAY as error:
        raise ServiceError(f"cannot migrate: the database cannot be reached ({type(error).__name__})") from None
    sys.stdout.write("claim_process: the database is migrated\n")
    if wanted:
        sys.stdout.write(f"claim_process: {made} of {len(wanted)} API keys are new, the others were there\n")


async def _make_keys(url: str, wanted: Sequence[first_keys.FirstKey]) -> int:
    connection = await db.connect(url)
    try:
        return await first_keys.make(connection, wanted)
    finally:
        connection.terminate()


if __name__ == "__main__":
    try:
        main()
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
