"""The door: every request is let in by its key and the scope that its route declares, or told why not. Used by `app`,
by the routes of every feature, and by the worker's own metrics server.

A route declares what it needs in its OpenAPI document (`**needs(Scope.CLAIMS_READ)` or `**PUBLIC`), and GuardedRoute
enforces just that; one that declares nothing cannot be added. A key comes as `Authorization: Bearer` (RFC 6750) or as
`X-API-Key`; it is looked at before path, query or body are.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from project.errors import Problem
from project.security import keyless
from project.security.ring import KeyRing, Mode
from project.security.scopes import LOCAL, Caller, Scope
from project.telemetry import access_metrics
from project.telemetry.logs import tell_of_request
from project.wire import problem_response

Headers = Iterable[tuple[bytes, bytes]]

FRESH_WITHIN_S = 1.5  # a request waits so long for keys to be read, and is answered within five seconds all the same
REALM = 'Bearer realm="claim_process"'

PUBLIC: dict[str, Any] = {"openapi_extra": {"security": []}}
"""What a route is given that needs no key."""

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer cpk_...`"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}


def needs(scope: Scope, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a route is given that needs this scope; `extra` is what else its OpenAPI operation holds."""
    return {"openapi_extra": {**(extra or {}), "security": [{scheme: [scope.value]} for scheme in SECURITY_SCHEMES]}}


def declared(route: APIRoute) -> Scope | None:
    """The scope that a route declares, None if it is public; TypeError when it declares nothing."""
    security = (route.openapi_extra or {}).get("security")
    if security is None:
        raise TypeError(f"{route.path} declares neither a scope nor that it is public")
    return Scope(security[0]["bearer"][0]) if security else None


class Unauthenticated(Problem):
    """401: no key, or none that is known, live and well formed (RFC 6750, 3.1); which, nobody is told."""

    def __init__(self, detail: str, *, presented: bool) -> None:
        challenge = f'{REALM}, error="invalid_token"' if presented else REALM
        super().__init__(
            401, "Unauthorized", detail, kind="/problems/unauthenticated", headers={"WWW-Authenticate": challenge}
        )


class Door:
    """Lets callers in by what the ring knows. `allowed_origins` are those that CORS allows."""

    def __init__(self, ring: KeyRing, allowed_origins: Sequence[str] = ()) -> None:
        self._ring = ring
        self._allowed_origins = allowed_origins

    def check_origin(self, peer: str | None, headers: Headers) -> None:
        """In the keyless mode, for every request, public or not: a 403 Problem for who is not this machine's user."""
        if self._ring.mode is not Mode.KEYLESS:
            return
        if (why := keyless.refusal(peer, headers, self._allowed_origins)) is not None:
            raise _refused("keyless", Problem(403, "Forbidden", why, kind="/problems/keyless"))

    async def admit(self, headers: Headers, scope: Scope) -> Caller:
        """Who asks, if they may: 401 for no live key, 403 for one without the scope, 503 while keys cannot be read.

        Metrics are shown on what was known last: they hold no claim, and are wanted most while the database is away.
        """
        if not self._knows_for(scope):
            await self._ring.freshen(FRESH_WITHIN_S)
        if not self._knows_for(scope):
            problem = Problem(
                503,
                "Database away",
                "the database cannot be reached, so nobody can be let in; nothing was stored",
                kind="/problems/database-away",
                headers={"Retry-After": "2"},
            )
            raise _refused("keys_unknown", problem)
        caller = LOCAL if self._ring.mode is Mode.KEYLESS else self._holder(headers)
        if scope not in caller.scopes:
            problem = Problem(
                403,
                "Forbidden",
                f"this key has not the scope {scope.value}",
                kind="/problems/insufficient-scope",
                headers={"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{scope.value}"'},
            )
            raise _refused("scope", problem)
        return caller

    def _knows_for(self, scope: Scope) -> bool:
        return self._ring.is_fresh or (scope is Scope.METRICS_READ and self._ring.mode is not Mode.UNKNOWN)

    def _holder(self, headers: Headers) -> Caller:
        offered = _offered(headers)
        if not offered:
            detail = "send an API key as Authorization: Bearer or X-API-Key"
            raise _refused("no_key", Unauthenticated(detail, presented=False))
        if len(offered) > 1:
            raise _refused("two_keys", Unauthenticated("send one API key, once", presented=True))
        caller = self._ring.holder_of(offered[0])
        if caller is None:
            raise _refused("bad_key", Unauthenticated("this API key lets nobody in", presented=True))
        return caller


def _offered(headers: Headers) -> list[bytes]:
    """The keys that came along; one under another scheme than Bearer is the empty key, which nobody holds."""
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            found.append(key.strip() if scheme.lower() == b"bearer" else b"")
    return found


def _refused(reason: str, problem: Problem) -> Problem:
    """Counts a refusal and has the request's log line tell it."""
    access_metrics.REFUSED.labels(reason).inc()
    tell_of_request(refused=reason)
    return problem


class GuardedRoute(APIRoute):
    """A route behind the door of its app: `app.state.door`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Asks the door before anything else of the request is looked at."""
        scope = declared(self)
        handle = super().get_route_handler()
        if scope is None:
            return handle

        async def guarded(request: Request) -> Response:
            request.scope["caller"] = await request.app.state.door.admit(request.scope["headers"], scope)
            return await handle(request)

        return guarded


def caller_of(request: Request) -> Caller:
    """Who asks, on a route that needs a scope."""
    caller: Caller = request.scope["caller"]
    return caller


class KeylessGate:
    """Refuses strangers on every path while there is no key. Plain ASGI, since it is on the hot path."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 403."""
        if scope["type"] == "http":
            try:
                self._door.check_origin(scope["client"][0] if scope.get("client") else None, scope["headers"])
            except Problem as problem:
                await problem_response(problem)(scope, receive, send)
                return
        await self.app(scope, receive, send)
