"""The rate limit of the dashboards' route, counted in Redis across all processes. Called by `routes`.

The counting is Redis' own library's (fastapi-redis-sdk): a fixed window that starts with a client's first request.
Without Redis requests pass uncounted (docs/decisions/0002-rate-limiter.md): the ranking itself is bounded by its
single flight, so a flood costs at most one short query at a time.
"""

import structlog
from redis.asyncio import Redis
from redis_fastapi.ratelimit_backend import RateLimitBackend, RateLimitResult

from project.cache import answered
from project.errors import Problem
from project.settings import Rate
from project.telemetry import metrics

_log = structlog.get_logger("limiter")
SCOPE = "claim_process:top-provider"


class Limiter:
    """At most `rate.limit` requests a window for each identity."""

    def __init__(self, redis: Redis, rate: Rate) -> None:
        self._backend = RateLimitBackend(redis, scope=SCOPE)
        self._rate = rate

    async def admit(self, identity: str) -> dict[str, str]:
        """Counts a request and gives the RateLimit headers of its answer; over the limit it raises a 429 Problem."""
        rate = self._rate
        counted = await self._counted(identity)
        if counted is None:
            _log.warning("limiter_away")
            metrics.LIMITER_DEGRADED.inc()
            return {}
        headers = {
            "RateLimit-Policy": f'"default";q={rate.limit};w={rate.window_s}',
            "RateLimit": f'"default";r={counted.remaining};t={counted.reset_after}',
        }
        if not counted.allowed:
            metrics.LIMITER_REFUSED.inc()
            raise Problem(
                429,
                "Too Many Requests",
                f"at most {rate.limit} requests in {rate.window_s} seconds",
                kind="/problems/rate-limit",
                headers={**headers, "Retry-After": str(counted.retry_after)},
            )
        return headers

    async def _counted(self, identity: str) -> RateLimitResult | None:
        """What the count came to; None when Redis does not say."""
        rate = self._rate
        hit = self._backend.hit(identity, limit=rate.limit, window=rate.window_s, fail_closed=False)
        try:
            counted = await answered(hit)
        except TimeoutError:
            return None
        return None if counted.degraded else counted
