"""Alembic's entry: the tables that it compares, and the connection over which it migrates (async, asyncpg).

Called by `project.schema`, which passes the database's URL as the attribute `database_url`, and by alembic's own
command line, which finds it in the settings.

It may run while claims come in. A statement that waits for a lock on a table has everybody behind it wait, too, so it
waits for LOCK_TIMEOUT_MS at most; then its migration is rolled back, the others get their turn, and it is tried again.
What a migration may do is in docs/operations.md#upgrade; system/test_nginx_upgrade.py shows it.
"""

import asyncio

import structlog
from alembic import context
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.schema import SchemaItem
from sqlmodel import SQLModel

import project.claims.models
import project.dead_letters.models
import project.imports.models
import project.providers.models
import project.security.models  # noqa: F401  these imports register their tables
from project.db import connect_patiently, create_patient_engine, database_url
from project.errors import ServiceError
from project.settings import load

_log = structlog.get_logger("migrations")

# Only one process migrates at a time, however many start at once; any constant would do.
MIGRATION_LOCK = 7_260_414
LOCK_TIMEOUT_MS = 500  # a tenth of what an answer may take; the rest is for what the claims behind it have to do
POLL_S = 0.1
PAUSE_S = 1.0  # longer than that, so that who waited is through
TRIES = 200  # five minutes
LOCKED = ("55P03", "40P01")  # lock_not_available, deadlock_detected


def include_object(
    item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None
) -> bool:
    """Partitions are made by migrations and belong to their parent; the models do not name them."""
    return not (kind == "table" and reflected and compare_to is None and "_p" in (name or ""))


def run(connection: Connection) -> None:
    """Runs what alembic was asked for, each migration in a transaction of its own."""
    event.listen(connection, "begin", be_impatient)
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        include_object=include_object,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def be_impatient(connection: Connection) -> None:
    """In this transaction. In an autocommit block, where indexes are made concurrently, there is none, and no limit."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


async def run_again_and_again(engine: AsyncEngine) -> None:
    """Until each migration has had its locks. Raises ServiceError after TRIES of one statement that has not."""
    for attempt in range(1, TRIES + 1):
        try:
            async with engine.connect() as connection:
                await connection.run_sync(run)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in LOCKED:
                raise
            _log.warning("migration_waits_for_a_lock", attempt=attempt)
            await asyncio.sleep(PAUSE_S)
        else:
            return
    raise ServiceError(f"cannot migrate: a table was in use at each of {TRIES} tries; end what has used it for so long")


async def connect_and_run() -> None:
    """Over connections of its own, without a time limit: a migration takes as long as it takes.

    The lock has a connection to itself, since a migration with an autocommit block ends its transaction. It is tried
    and not awaited, by `execute`: who waits in a statement, and who has more of its rows to fetch, holds a snapshot,
    which an index that is made concurrently would wait for.
    """
    url = context.config.attributes.get("database_url") or database_url(load().storage)
    engine = create_patient_engine(url)
    guard = await connect_patiently(url)
    try:
        async with guard.transaction():
            await guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            take = f"SELECT WHERE pg_try_advisory_xact_lock({MIGRATION_LOCK})"
            while await guard.execute(take) == "SELECT 0":  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            await run_again_and_again(engine)
    finally:
        await guard.close()
        await engine.dispose()


asyncio.run(connect_and_run())
