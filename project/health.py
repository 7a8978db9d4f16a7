"""GET /hello, /livez, /readyz and /metrics, for people and machines that watch the service. Made by `app`."""

import asyncio

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from project import db, wire
from project.errors import Problem
from project.openapi import problems
from project.revision import is_migrated
from project.security.door import PUBLIC, GuardedRoute, needs
from project.security.ring import KeyRing
from project.security.scopes import Scope
from project.telemetry import metrics

# A probe that waits longer than this is as good as a no.
READY_WITHIN_S = 2.0


def router(engine: AsyncEngine, ring: KeyRing) -> APIRouter:
    """The routes; all but /metrics are public."""
    routes = APIRouter(tags=["service"], route_class=GuardedRoute)

    @routes.get(
        "/hello", summary="Say hello", response_class=Response, responses={200: _json({"ping": "hello!"})}, **PUBLIC
    )
    async def hello() -> Response:
        return wire.json_response({"ping": "hello!"})

    @routes.get(
        "/livez",
        summary="The process lives",
        response_class=Response,
        responses={200: _json({"status": "ok"})},
        **PUBLIC,
    )
    async def livez() -> Response:
        return wire.json_response({"status": "ok"})

    @routes.get(
        "/readyz",
        summary="The process can serve: its database is reachable and migrated",
        response_class=Response,
        responses={200: _json({"status": "ok"}), **problems(503)},
        **PUBLIC,
    )
    async def readyz() -> Response:
        try:
            async with asyncio.timeout(READY_WITHIN_S), engine.connect() as connection:
                migrated = await is_migrated(lambda query: connection.scalar(text(query)))
        except db.AWAY as error:
            raise _not_ready("the database cannot be reached") from error
        if not migrated:
            raise _not_ready("the database is not migrated; run `python -m project migrate`")
        if not ring.is_fresh:
            raise _not_ready("the API keys are not read yet")
        return wire.json_response({"status": "ok"})

    @routes.get(
        "/metrics",
        summary="Metrics of all web processes, for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 403, 503)},
        **needs(Scope.METRICS_READ),
    )
    async def metrics_page() -> Response:
        return Response(await asyncio.to_thread(metrics.exposition), headers={"Content-Type": metrics.CONTENT_TYPE})

    return routes


def _json(example: object) -> dict[str, object]:
    return {"content": {"application/json": {"schema": {"type": "object"}, "example": example}}}


def _not_ready(detail: str) -> Problem:
    return Problem(503, "Not ready", detail, headers={"Retry-After": "1"})
