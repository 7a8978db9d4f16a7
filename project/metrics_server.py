"""The worker's own little HTTP server on METRICS_PORT: /metrics behind the door, /livez for whoever starts it.

Opened by `worker`. It runs in the worker's loop, so a worker whose loop hangs answers neither.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from project import wire
from project.errors import Problem, ServiceError
from project.security.door import Door
from project.security.scopes import Scope


@asynccontextmanager
async def serving_metrics(door: Door, host: str, port: int) -> AsyncIterator[None]:
    """Serves until the block ends. Raises ServiceError, one line for a person, when the port is taken."""
    app = web.Application(middlewares=[_behind(door)], client_max_size=0)
    app.add_routes([web.get("/livez", _livez), web.get("/metrics", _metrics(door))])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise ServiceError(f"METRICS_PORT {port} cannot be used: {why}") from None
        yield
    finally:
        await runner.cleanup()


def _behind(door: Door) -> Middleware:
    """Every error as problem+json, and strangers refused while there is no key."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            door.check_origin(request.remote, _headers(request))
            return await handler(request)
        except Problem as problem:
            return _answered(problem)
        except web.HTTPException as error:
            return _answered(Problem(error.status, error.reason))

    return middleware


def _answered(problem: Problem) -> web.Response:
    body = wire.encode(problem.body())
    return web.Response(
        status=problem.status, body=body, headers=problem.headers, content_type="application/problem+json"
    )


def _headers(request: web.Request) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in request.raw_headers]


async def _livez(_: web.Request) -> web.Response:
    return web.Response(body=wire.encode({"status": "ok"}), content_type="application/json")


def _metrics(door: Door) -> Handler:
    async def page(request: web.Request) -> web.Response:
        await door.admit(_headers(request), Scope.METRICS_READ)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return page
