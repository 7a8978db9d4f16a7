"""Alembic's entry: the tables that it compares, and the connection over which it migrates (async, asyncpg).

Called by `project.schema`, which passes the database's URL as the attribute `database_url`, and by alembic's own
command line, which finds it in the settings.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.sql.schema import SchemaItem
from sqlmodel import SQLModel

import project.claims.models
import project.dead_letters.models
import project.providers.models
import project.security.models  # noqa: F401  these imports register their tables
from project.db import create_patient_engine, database_url
from project.settings import load

# Only one process migrates at a time, however many start at once; any constant would do.
MIGRATION_LOCK = 7_260_414


def include_object(
    item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None
) -> bool:
    """Partitions are made by migrations and belong to their parent; the models do not name them."""
    return not (kind == "table" and reflected and compare_to is None and "_p" in (name or ""))


def run(connection: Connection) -> None:
    """Runs what alembic was asked for, all migrations of it in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        include_object=include_object,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        context.run_migrations()


async def connect_and_run() -> None:
    """Over a connection of its own, without a time limit: a migration takes as long as it takes."""
    engine = create_patient_engine(context.config.attributes.get("database_url") or database_url(load().storage))
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(connect_and_run())
