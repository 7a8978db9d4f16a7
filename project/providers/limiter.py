"""The rate limit of the dashboards' route, counted in Redis across all processes. Called by `routes`.

The counting is Redis' own library's (fastapi-redis-sdk): a fixed window that starts with a client's first request.
Without Redis requests pass uncounted (docs/decisions/0002-rate-limiter.md): the ranking itself is bounded by its
single flight, so a flood costs at most one short query at a time.
"""

import asyncio
import math
from collections.abc import Sequence

import structlog
from redis.asyncio import Redis
from redis_fastapi.ratelimit_backend import RateLimitBackend, RateLimitResult

from project.cache import answered
from project.errors import Problem
from project.settings import Rate
from project.telemetry import metrics
from project.telemetry.logs import where

_log = structlog.get_logger("limiter")
SCOPE = "claim_process:top-provider"
MOST_REMEMBERED = 10_000
REMEMBERED_S = 5.0  # a Redis that has forgotten a window, after a restart, is asked again after that


class Limiter:
    """At most `rate.limit` requests a window for each identity.

    Two things keep Redis, whose client takes 80 us for a question, out of most requests (bench: top-provider, 429):
    requests of one client that come while it is being asked about are counted together by the next question; and a
    client that was refused is refused for REMEMBERED_S more, within its window.
    """

    def __init__(self, redis: Redis, rate: Rate) -> None:
        self._backend = RateLimitBackend(redis, scope=SCOPE)
        self._rate = rate
        self._waiting: dict[str, list[asyncio.Future[RateLimitResult | None]]] = {}  # of clients being asked about
        self._asking: set[asyncio.Task[None]] = set()
        self._refused: dict[str, tuple[float, float]] = {}  # until when we know, and the window's end

    async def admit(self, identity: str) -> dict[str, str]:
        """Counts a request and gives the RateLimit headers of its answer; over the limit it raises a 429 Problem."""
        if (reset_after_s := self._refused_for(identity)) > 0:
            raise self._refusal(reset_after_s)
        counted = await self._counted(identity)
        if counted is None:
            _log.warning("limiter_away")
            metrics.LIMITER_DEGRADED.inc()
            return {}
        if not counted.allowed:
            self._remember(identity, counted.reset_after)
            raise self._refusal(counted.reset_after)
        return self._headers(counted.remaining, counted.reset_after)

    def _headers(self, remaining: int, reset_after_s: int) -> dict[str, str]:
        rate = self._rate
        return {
            "RateLimit-Policy": f'"default";q={rate.limit};w={rate.window_s}',
            "RateLimit": f'"default";r={remaining};t={reset_after_s}',
        }

    def _refusal(self, reset_after_s: int) -> Problem:
        metrics.LIMITER_REFUSED.inc()
        return Problem(
            429,
            "Too Many Requests",
            f"at most {self._rate.limit} requests in {self._rate.window_s} seconds",
            kind="/problems/rate-limit",
            headers={**self._headers(0, reset_after_s), "Retry-After": str(reset_after_s)},
        )

    def _refused_for(self, identity: str) -> int:
        """Seconds until this client's window ends, if it is certainly refused; else 0."""
        known_until, window_end = self._refused.get(identity, (0.0, 0.0))
        now = asyncio.get_running_loop().time()
        return math.ceil(window_end - now) if now < known_until else 0

    def _remember(self, identity: str, reset_after_s: int) -> None:
        """`reset_after_s` is rounded up, so its last second may be one of the next window."""
        if len(self._refused) >= MOST_REMEMBERED:
            self._refused.clear()  # then they are asked about again
        now = asyncio.get_running_loop().time()
        self._refused[identity] = now + min(reset_after_s - 1, REMEMBERED_S), now + reset_after_s

    async def _counted(self, identity: str) -> RateLimitResult | None:
        """What the count came to; None when Redis does not say."""
        mine: asyncio.Future[RateLimitResult | None] = asyncio.get_running_loop().create_future()
        if identity in self._waiting:
            self._waiting[identity].append(mine)
        else:
            self._waiting[identity] = [mine]
            asking = asyncio.create_task(self._ask_for(identity))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        return await mine

    async def _ask_for(self, identity: str) -> None:
        """Asks about this client for as long as its requests wait."""
        try:
            while asked := self._waiting[identity]:
                self._waiting[identity] = []
                await self._ask(identity, asked)
        finally:
            del self._waiting[identity]

    async def _ask(self, identity: str, asked: Sequence[asyncio.Future[RateLimitResult | None]]) -> None:
        """Counts all these requests at once; one by one when not all of them are within the limit."""
        counted = await self._hit(identity, len(asked))
        if counted is not None and not counted.allowed and len(asked) > 1:
            counted = await self._hit(identity, 1)
            for position, request in enumerate(asked):
                if position and counted is not None and counted.allowed:
                    counted = await self._hit(identity, 1)
                _settle(request, counted)
            return
        for request in asked:
            _settle(request, counted)

    async def _hit(self, identity: str, cost: int) -> RateLimitResult | None:
        rate = self._rate
        hit = self._backend.hit(identity, limit=rate.limit, window=rate.window_s, cost=cost, fail_closed=False)
        try:
            counted = await answered(hit)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not leave the others waiting
            if not isinstance(error, TimeoutError):
                _log.error("limiter_failed", error=where(error))
            return None
        return None if counted.degraded else counted


def _settle(request: "asyncio.Future[RateLimitResult | None]", counted: RateLimitResult | None) -> None:
    if not request.done():  # its client may have gone
        request.set_result(counted)
