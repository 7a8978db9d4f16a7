"""Redis: the client that the process shares, and where it is.

Called by `app` at start. Redis holds nothing that cannot be made again: the ranking for a second and the
limiter's counters for a minute.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from project.engines.places import Places
from project.secret_files import with_password
from project.settings import StorageSettings

T = TypeVar("T")

# A dashboard waits for an answer no longer than this before Postgres answers instead.
TIMEOUT_S = 0.5


async def answered(question: Awaitable[T]) -> T:
    """What Redis answers within TIMEOUT_S; else TimeoutError, which is an OSError.

    The client's own timeouts are for each step: a hanging server would cost one for the connection, one for the
    command, and both again, since a lost connection is tried again.
    """
    async with asyncio.timeout(TIMEOUT_S):
        return await question


def redis_url(storage: StorageSettings) -> str:
    """REDIS_URL with REDIS_PASSWORD, or without it the embedded Valkey of DATA_DIR, running or not."""
    if storage.redis_url:
        return with_password(storage.redis_url, storage.redis_password)
    return Places(storage.data_dir).redis_url


def create_client(url: str) -> Redis:
    """A client whose pool makes callers wait for a free connection instead of failing at the hundredth."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=32,
        timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )
    return Redis.from_pool(pool)
