"""The middleware around every request: its id, its log line, its metrics, and the last net for errors.

Installed by `app`, outside everything else of ours. Plain ASGI, because it runs on the hot path.
"""

import ipaddress
import re
import time
from collections.abc import MutableMapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from project.errors import Problem
from project.ids import random_bytes
from project.telemetry import metrics, trace_context, tracing
from project.telemetry.logs import begin_request, where
from project.wire import problem_response

_log = structlog.get_logger("http")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z", re.ASCII)
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds; only their failures are news
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=1024)
def _meters(method: str, route: str, status: int) -> tuple[Any, Any]:
    """The two metrics of a kind of request; looking labels up costs more than counting."""
    if (method, route) not in metrics.ROUTES:
        method, route = metrics.UNSERVED
    return (
        metrics.HTTP_REQUESTS.labels(method, route, str(status)),
        metrics.HTTP_SECONDS.labels(method, route),
    )


def is_quiet(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request is a probe or a scrape, of which no span is made."""
    return scope["path"] in _QUIET


def _route_template(scope: Scope) -> str:
    """`/claims/{claim_id}`, never the path itself, which holds whatever a client sent."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


def tell(request: HTTPConnection, **fields: str | int) -> None:
    """Adds fields to the request's log line: ids and counts of ours, never a value that a client sent."""
    request.scope.setdefault("told", {}).update(fields)


def _correlation(scope: Scope) -> tuple[str, str | None]:
    """The request's id and, if it is part of a trace, its traceparent. What is not well formed counts as absent."""
    request_id = ""
    offered: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"traceparent":
            offered.append(value)
    traceparent = trace_context.accepted(offered[0].decode("latin-1")) if len(offered) == 1 else None
    return request_id if _REQUEST_ID.match(request_id) else random_bytes().hex(), tracing.here() or traceparent


def _address(scope: Scope) -> str:
    """The peer's address; not what a proxy passed on in its place, if that is none."""
    try:
        return str(ipaddress.ip_address((scope.get("client") or ("",))[0]))
    except ValueError:
        return "unknown"


class RequestTelemetry:
    """Gives each request an id (the client's X-Request-ID if it is fit to log), counts, times and logs it.

    The answer bears the id as X-Request-ID, and the request's `traceparent`: of its span where traces are made, else
    the one that it came with. `scope["traceparent"]` is what a claim takes along.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 500 problem+json to whatever nobody else caught, and logs its place without its text."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, traceparent = _correlation(scope)
        correlated = [(b"x-request-id", request_id.encode())]
        if traceparent is None:
            begin_request(request_id=request_id)
        else:
            correlated.append((b"traceparent", traceparent.encode()))
            begin_request(request_id=request_id, trace_id=trace_context.trace_id(traceparent))
        scope["traceparent"] = traceparent
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *correlated]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  the last net: nothing may reach a log with its text
            _log.error("request_failed", error=where(error))
            if not status:
                answer = problem_response(Problem(500, HTTPStatus.INTERNAL_SERVER_ERROR.phrase))
                await answer(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = _route_template(scope)
        requests, duration = _meters(method, route, status)
        requests.inc()
        duration.observe(seconds)
        log = _log.debug if route in _QUIET and status < 400 else _log.info
        told = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
        if caller := scope.get("caller"):
            told["client"] = caller.name
        told |= scope.get("told", {})
        if status in (401, 403):
            told["peer"] = _address(scope)  # who tries keys; otherwise an address is nobody's business
        log("request", **told)
