"""The database: one engine for reads, bare connections for the ledger and the worker, and how to tell that it is away.

Called by `app` at start, by `migrations/env.py`, and by the tests. Reads go through SQLAlchemy with the
SQLModel tables; the ledger speaks asyncpg itself, because its batches are arrays, not objects.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from project.engines.places import Places
from project.secret_files import with_password
from project.settings import StorageSettings

# An answer of any kind is due within five seconds. A read may have to wait for a connection, find it dead, make
# another, and ask: together these stay within that.
POOL_TIMEOUT_S = 1.0
CONNECT_TIMEOUT_S = 1.0
STATEMENT_TIMEOUT_S = 1.5
# The ledger gives up waiting by its own deadline; this only ends what hangs.
BATCH_STATEMENT_TIMEOUT_S = 4.0

AWAY = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,  # a connection that is closed already; DataError below it is left out by `is_away`
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that was not promoted yet
    asyncpg.PostgresSystemError,
    asyncpg.UndefinedTableError,
    InterfaceError,
    OperationalError,
    PoolTimeoutError,
)
"""What is raised when the database cannot be reached, is starting, stopping, full, or not migrated yet."""


def database_url(storage: StorageSettings) -> str:
    """DATABASE_URL with DATABASE_PASSWORD, or without it the embedded Postgres of DATA_DIR, running or not."""
    if storage.database_url:
        return with_password(storage.database_url, storage.database_password)
    return Places(storage.data_dir).postgres_url


def is_away(error: BaseException) -> bool:
    """Whether the error speaks of the database's state rather than of the statement."""
    if isinstance(error, AWAY):
        return not isinstance(error, asyncpg.DataError)
    return isinstance(error, DBAPIError) and isinstance(error.orig and error.orig.__cause__, AWAY)


def create_engine(database_url: str, pool_size: int) -> AsyncEngine:
    """The pool for reads. Its errors hide the parameters, since those can be PHI."""
    return create_async_engine(
        "postgresql+asyncpg://",
        # asyncpg reads the URL itself, as for bare connections: SQLAlchemy does not know libpq's `sslmode`
        async_creator=lambda: asyncpg.connect(
            database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S
        ),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def create_patient_engine(database_url: str) -> AsyncEngine:
    """One connection at a time without a time limit, for migrations: they take as long as they take."""
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(database_url),
        poolclass=NullPool,
        hide_parameters=True,
    )


async def connect(database_url: str) -> Any:
    """A bare asyncpg connection for the ledger; whoever opens it closes it."""
    return await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=BATCH_STATEMENT_TIMEOUT_S)


# What the planner may do to a queue whose statistics are older than its rows: read and sort all of it for each lease,
# 12 ms of 20,000 due payments where the index takes 2 (bench: saga).
_BY_INDEX = [f"SET enable_{way} = off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")]


async def connect_to_queue(database_url: str) -> Any:
    """The same for statements that take rows off a queue: they go by its index, whatever the statistics say."""
    return await _connect_and(database_url, *_BY_INDEX)


async def connect_to_outbox(database_url: str) -> Any:
    """The same where a commit that is lost in a crash is only done again: it need not wait for the disk."""
    return await _connect_and(database_url, *_BY_INDEX, "SET synchronous_commit = off")


async def _connect_and(database_url: str, *statements: str) -> Any:
    connection = await connect(database_url)
    try:
        await connection.execute(";".join(statements))
    except BaseException:  # a cancellation, too: nobody else knows of the connection yet
        connection.terminate()
        raise
    return connection


async def connect_patiently(database_url: str, statement_timeout_s: float | None = None) -> Any:
    """The same for an operator's command, whose statements may read whole tables."""
    return await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=statement_timeout_s)


class Reconnecting:
    """One bare connection, made when it is first asked for, and made again after it was lost or dropped.

    For one task at a time, as any asyncpg connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._connection: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._connection is not None and not self._connection.is_closed()

    async def get(self) -> Any:
        """The connection; raises what `connect` raises when the database is away."""
        if not self.is_open:
            self._connection = await self._connect()
        return self._connection

    def drop(self) -> None:
        """Ends the connection without a word to the server, which may not be there."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
