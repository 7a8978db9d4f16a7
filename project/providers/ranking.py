"""The ranking of providers: totals -> heap -> Redis for a second. Called by `routes`.

A read takes the cached ranking out of Redis. On a miss one caller makes it anew while all others, in this process
and in the others, wait for that one; without Redis each process makes it at most once at a time from Postgres.
docs/top-provider.md explains the data structure, the algorithm and its cost.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import LockError, RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from project import wire
from project.cache import answered
from project.providers.models import PARTITIONS, partition_name
from project.providers.top_n import Total, top_n
from project.telemetry import metrics
from project.telemetry.logs import where

_log = structlog.get_logger("ranking")

DEPTH = 100  # the cached ranking serves every `limit` up to this as a slice
CACHE_MS = 1000
KEY = "claim_process:top-provider"
LOCK = "claim_process:top-provider:lock"
# Longer than any recomputation should take; if its holder dies, others stop waiting after this.
LOCK_S = 2.0
POLL_S = 0.005

_decoder = msgspec.json.Decoder(list[Total])

# Each partition offers its own best by index. An NPI lives in exactly one, so the best of all are among them.
CANDIDATES = " UNION ALL ".join(
    f"(SELECT provider_npi, net_fee FROM {partition_name(number)} WHERE line_count > 0 "  # noqa: S608  our own names
    f"ORDER BY net_fee DESC, provider_npi LIMIT {DEPTH})"
    for number in range(PARTITIONS)
)


async def from_totals(engine: AsyncEngine, depth: int = DEPTH) -> list[Total]:
    """The best `depth` providers (at most DEPTH) as the database has them now."""
    with metrics.RANKING_SECONDS.time():
        async with engine.connect() as connection:
            rows = await connection.execute(text(CANDIDATES))
            return top_n((Total(npi, net_fee) for npi, net_fee in rows), depth)


class Best:
    """A ranking, and how its beginnings are written on the wire."""

    def __init__(self, totals: Sequence[Total]) -> None:
        self._totals = totals
        self._written: dict[int, bytes] = {}

    def written(self, limit: int) -> bytes:
        """The JSON of the `limit` best."""
        if limit not in self._written:
            self._written[limit] = wire.encode([total._asdict() for total in self._totals[:limit]])
        return self._written[limit]


class Ranking:
    """The cached ranking of one process. Made by `app`.

    Requests that come together share one read of the cache, and what it gives is taken apart only when it is new
    (bench: top-provider).
    """

    def __init__(self, engine: AsyncEngine, redis: Redis) -> None:
        self._engine = engine
        self._redis = redis
        self._flight: asyncio.Task[Best] | None = None
        self._last: tuple[bytes | str, Best] = b"", Best(())

    async def best(self) -> Best:
        """The best providers, at most about a second old.

        Raises what the database raises when the ranking must be made and the database is away.
        """
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._read_or_made())
        return await asyncio.shield(self._flight)  # a caller that leaves does not take the others' answer along

    async def _read_or_made(self) -> Best:
        try:
            cached = await answered(self._redis.get(KEY))
        except (RedisError, OSError) as error:
            _log.warning("ranking_cache_away", error=where(error))
            metrics.RANKING_CACHE.labels("error").inc()
            return Best(await from_totals(self._engine))
        metrics.RANKING_CACHE.labels("hit" if cached else "miss").inc()
        if not cached:
            return Best(await self._once_for_all())
        if cached != self._last[0]:
            self._last = cached, Best(_read(cached))
        return self._last[1]

    async def _once_for_all(self) -> list[Total]:
        """Makes the ranking, unless another process is at it; then waits for what that one leaves in Redis."""
        lock = self._redis.lock(LOCK, timeout=LOCK_S)
        try:
            while not await answered(lock.acquire(blocking=False)):
                await asyncio.sleep(POLL_S)
                if cached := await answered(self._redis.get(KEY)):
                    return _read(cached)
            try:
                return await self._made_under_lock()
            finally:
                await answered(lock.release())
        except LockError:
            return await from_totals(self._engine)  # making it took longer than the lock lasts
        except (RedisError, OSError) as error:
            _log.warning("ranking_cache_away", error=where(error))
            return await from_totals(self._engine)

    async def _made_under_lock(self) -> list[Total]:
        if cached := await answered(self._redis.get(KEY)):  # made between our miss and our lock
            return _read(cached)
        ranking = await from_totals(self._engine)
        await answered(self._redis.set(KEY, wire.encode(ranking), px=CACHE_MS))
        return ranking


def _read(cached: bytes | str) -> list[Total]:
    return _decoder.decode(cached)
