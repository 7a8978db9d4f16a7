"""The web application: what it is made of and in which order. Called by `web` (uvicorn's factory) and by tests.

create_app() builds everything and starts nothing; the lifespan starts the ledger and, at the end, drains it.
"""

import asyncio
import gc
import multiprocessing
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import compile_path

from project import cache, db, settings, short_way
from project.bell import Bell
from project.claims import batch_routes
from project.claims import routes as claims
from project.claims.columns import shown
from project.claims.ledger import Ledger
from project.dead_letters import routes as dead_letters
from project.docs_pages import add_docs
from project.engines import launch
from project.errors import Problem
from project.health import router as health
from project.load import Load
from project.providers import routes as providers
from project.providers.limiter import Limiter
from project.providers.ranking import Ranking
from project.security.door import Door, GuardedRoute, KeylessGate
from project.security.headers import SecurityHeaders
from project.security.ring import KeyRing
from project.telemetry import logs, metrics, tracing
from project.telemetry.http import RequestTelemetry, is_quiet
from project.telemetry.logs import where
from project.wire import problem_response

_log = structlog.get_logger("app")

# A large claim is many objects, none of them in a circle; with Python's 700 a quarter of its parsing went into looking
# for some (bench: 1,000 lines).
GC_AFTER = 20_000
CLOSE_S = 2.0  # to say goodbye on all connections of the pool; a database that hangs takes 1.5 s for each


def create_app(using: settings.Settings | None = None) -> FastAPI:
    """The whole service of one web process, from `using` or else from the environment."""
    chosen = using or settings.load()
    logs.configure(chosen.logging, "web")
    traced = tracing.start("claim_process-web")
    url = db.database_url(chosen.storage)
    engine = db.create_engine(url, chosen.storage.database_pool_size)
    redis = cache.create_client(cache.redis_url(chosen.storage))
    bell = Bell(lambda: db.connect(url))
    ring = KeyRing(lambda: db.connect(url))
    ledger = Ledger(
        lambda: db.connect(url),
        queue_lines=chosen.intake.intake_queue_lines,
        retention_s=chosen.intake.idempotency_retention,
        committed=bell.ring,
    )
    load = Load(chosen.limits, lambda: ledger.is_full, metrics.SHED.inc)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        if parent := multiprocessing.parent_process():  # one of uvicorn's workers, which would outlive a killed one
            launch.follow_parent(parent.pid or 0)
        gc.enable()
        gc.set_threshold(GC_AFTER)
        gc.freeze()  # what the start has made stays; the collector need not look at it again
        ring.start()
        bell.start()
        ledger.start()
        _log.info("started", app=chosen.logging.app_name, environment=chosen.logging.environment)
        yield {"load": load}
        await ledger.close()
        await bell.close()
        await ring.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await engine.dispose()
        await redis.aclose()
        await tracing.stop()
        _log.info("stopped")

    app = FastAPI(
        title=chosen.logging.app_name,
        summary="Takes in claims, computes their net fees and ranks providers by them.",
        description=_DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # FastAPI's own spans; its metrics and logs would double Prometheus' and quote exceptions
        telemetry={"tracing": traced, "metrics": False, "logs": False, "operation_spans": False, "exclude": is_quiet},
        redirect_slashes=False,  # a redirect would repeat the Host that the client claims
    )
    app.router.route_class = GuardedRoute
    app.state.door = door = Door(ring, chosen.server.cors_origins)
    _count_pool_use(engine, chosen.storage.database_pool_size)
    handlers = claims.ClaimRoutes(ledger, engine, chosen.intake, chosen.limits.body_timeout_s)
    batches = batch_routes.BatchRoutes(ledger, engine, chosen, handlers.aside, lambda: load.is_leaving)
    app.include_router(batch_routes.router(batches))  # before GET /claims/{claim_id}, which would take its path
    app.include_router(of_claims := claims.router(handlers))
    app.include_router(dead_letters.router(dead_letters.LetterRoutes(engine, lambda: db.connect(url), bell.ring)))
    dashboards = providers.ProviderRoutes(Ranking(engine, redis), Limiter(redis, chosen.ranking.rate))
    app.include_router(of_providers := providers.router(dashboards))
    app.include_router(health(engine, ring))
    add_docs(app)
    _answer_errors(app)
    if not traced:
        short = {("POST", "/claims"): handlers.post_claim, ("GET", "/top-provider"): dashboards.best_ten}
        table = short_way.table([*of_claims.routes, *of_providers.routes], short)
        app.add_middleware(short_way.ShortWay, door=door, table=table, answer=_answer)
    _surround(app, door, chosen.server.cors_origins)
    return app


def _surround(app: FastAPI, door: Door, cors_origins: Sequence[str]) -> None:
    """The middleware, from the innermost to the outermost."""
    app.add_middleware(KeylessGate, door=door)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=_ALLOWED,
            expose_headers=_EXPOSED,
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestTelemetry)


_DESCRIPTION = """
Every answer to a well-formed request bears `X-Request-ID`, the request's own if it has one (8 to 64 of
`A-Za-z0-9._-`). A W3C `traceparent` is taken over, answered, and kept with the claim: payments and the claim's events
bear it, too.
"""
_ALLOWED = [
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Idempotency-Key",
    "Prefer",
    "X-Request-ID",
    "traceparent",
]
_EXPOSED = [
    "Location",
    "Idempotent-Replayed",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
    "traceparent",
]


def _count_pool_use(engine: AsyncEngine, size: int) -> None:
    metrics.POOL_SIZE.set(size)
    event.listen(engine.sync_engine, "checkout", lambda *_: metrics.POOL_IN_USE.inc())
    event.listen(engine.sync_engine, "checkin", lambda *_: metrics.POOL_IN_USE.dec())


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves as problem+json."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _bad_query)
    for kind in (*db.AWAY, DBAPIError):
        app.add_exception_handler(kind, _database_error)


async def _answer(request: Request, error: Exception) -> Response:
    """The same for who is not under FastAPI's own handlers."""
    if isinstance(error, Problem):
        return problem_response(error)
    if isinstance(error, (*db.AWAY, DBAPIError)):
        return await _database_error(request, error)
    raise error


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """404 and 405 of the router."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and (methods := _methods_of(request)):
        headers["Allow"] = ", ".join(methods)
    return problem_response(Problem(error.status_code, HTTPStatus(error.status_code).phrase, headers=headers))


def _methods_of(request: Request) -> list[str]:
    """All methods of a path (RFC 9110, 10.2.1); the router itself names those of the first route it tried."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    if (asked := request.url.path) in paths:
        return sorted(method.upper() for method in paths[asked])
    return sorted(
        method.upper()
        for path, operations in paths.items()
        if compile_path(path)[0].match(asked)
        for method in operations
    )


async def _bad_query(_: Request, error: Exception) -> Response:
    """What is wrong with the query or path, in words that never repeat the value."""
    assert isinstance(error, RequestValidationError)
    faults = [
        {
            "line": None,
            "field": shown(str(fault["loc"][-1]), position),
            "rule": fault["type"],
            "detail": _SAFE_DETAIL.get(fault["type"].split("_")[0], fault["msg"].removeprefix("Value error, ")),
        }
        for position, fault in enumerate(error.errors(), 1)
    ]
    return problem_response(Problem(422, "Bad query", kind="/problems/bad-query", errors=faults))


# pydantic's own words for these quote a character of the value
_SAFE_DETAIL = {
    "uuid": "must be a UUID",
    "datetime": "must be an RFC 3339 date-time with an offset",
    "timezone": "must be an RFC 3339 date-time with an offset",
}


async def _database_error(_: Request, error: Exception) -> Response:
    """A read that the database did not answer: try again. Anything else about it is a defect, and a 500."""
    if not db.is_away(error):
        raise error
    _log.warning("database_away", error=where(error))
    return problem_response(
        Problem(
            503,
            "Database away",
            "the database cannot be reached",
            kind="/problems/database-away",
            headers={"Retry-After": "2"},
        )
    )
