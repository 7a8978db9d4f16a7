"""Migrations: `python -m project.schema` brings the database up to this build. Called by the supervisor and `cli`."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config

from project import db, settings
from project.errors import ServiceError
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
    """Migrates the settings' database. Raises ServiceError, one line for a person, when it is away."""
    chosen = settings.load()
    logs.configure(chosen.logging, "migrate")
    try:
        upgrade(db.database_url(chosen.storage))
    except db.AWAY as error:
        raise ServiceError(f"cannot migrate: the database cannot be reached ({type(error).__name__})") from None
    sys.stdout.write("claim_process: the database is migrated\n")


if __name__ == "__main__":
    try:
        main()
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
