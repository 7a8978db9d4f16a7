"""The short way of POST /claims: from the middleware straight to its handler. Installed by `app`, innermost.

FastAPI's own way to an endpoint (five layers, the routers, dependencies, exit stacks) costs a third of a two-line claim
(bench: 2 lines) and does nothing for this route, whose door, body and answer are ours. The route stays where it is:
for the OpenAPI document, and for whoever wants FastAPI's spans, which the short way does not make.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from project.security import scopes
from project.security.door import Door

Handler = Callable[[Request], Awaitable[Response]]


class ShortWay:
    """Answers POST /claims by `handle`, behind the same door as the route; all else goes on to `app`.

    `answer` turns what `handle` raises into its answer, or raises it again.
    """

    def __init__(
        self, app: ASGIApp, door: Door, route: Any, answer: Callable[[Request, Exception], Awaitable[Response]]
    ) -> None:
        self.app = app
        self._door = door
        self._route = route
        self._handle: Handler = route.endpoint
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes the request on."""
        if scope["type"] != "http" or scope["path"] != "/claims" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive)
        try:
            scope["caller"] = await self._door.admit(scope["headers"], scopes.Scope.CLAIMS_WRITE)
            response = await self._handle(request)
        except Exception as error:  # noqa: BLE001  as Starlette does: each kind has its answer
            response = await self._answer(request, error)
        await response(scope, receive, send)
