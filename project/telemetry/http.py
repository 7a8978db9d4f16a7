"""The middleware around every request: its id, its log line, its metrics, and the last net for errors.

Installed by `app`, outside everything else of ours. Plain ASGI, because it runs on the hot path.
"""

import ipaddress
import re
import time
from functools import lru_cache
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from project.errors import Problem
from project.telemetry import metrics
from project.telemetry.logs import where
from project.wire import problem_response

_log = structlog.get_logger("http")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z", re.ASCII)
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds; only their failures are news
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=1024)
def _meters(method: str, route: str, status: int) -> tuple[Any, Any]:
    """The two metrics of a kind of request; looking labels up costs more than counting."""
    return (
        metrics.HTTP_REQUESTS.labels(method, route, str(status)),
        metrics.HTTP_SECONDS.labels(method, route),
    )


def _route_template(scope: Scope) -> str:
    """`/claims/{claim_id}`, never the path itself, which holds whatever a client sent."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


def _address(scope: Scope) -> str:
    """The peer's address; not what a proxy passed on in its place, if that is none."""
    try:
        return str(ipaddress.ip_address((scope.get("client") or ("",))[0]))
    except ValueError:
        return "unknown"


class RequestTelemetry:
    """Gives each request an id (the client's X-Request-ID if it is fit to log), counts, times and logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 500 problem+json to whatever nobody else caught, and logs its place without its text."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _REQUEST_ID.match(offered) else token_hex(8)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
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
            structlog.contextvars.clear_contextvars()

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
        if status in (401, 403):
            told["peer"] = _address(scope)  # who tries keys; otherwise an address is nobody's business
        log("request", **told)
