"""The short way of the routes that matter most: from the middleware straight to their handlers. Installed by `app`.

FastAPI's own way to an endpoint (layers, routers, dependencies, exit stacks) costs a third of a two-line claim (bench:
2 lines, top-provider, 429) and does nothing for these, whose door, body and answer are ours. The routes stay where they
are: for the OpenAPI document, for requests with a query, and for whoever wants FastAPI's spans, which the short way
does not make.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from project.security.door import Door, declared
from project.security.scopes import Scope

Handler = Callable[[Request], Awaitable[Response]]


class Short(NamedTuple):
    """A route behind a door, and what answers a request to it that has no query."""

    route: APIRoute
    scope: Scope
    handle: Handler


Table = Mapping[tuple[str, str], Short]


def table(routes: Iterable[Any], handlers: Mapping[tuple[str, str], Handler]) -> Table:
    """The routes of these methods and paths, each with its handler."""
    return {
        (method, route.path): Short(route, scope, handlers[method, route.path])
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        if (method, route.path) in handlers and (scope := declared(route)) is not None
    }


class ShortWay:
    """Answers what is in `table`; all else goes on to `app`. `answer` turns what a handler raises into its answer."""

    def __init__(
        self, app: ASGIApp, door: Door, table: Table, answer: Callable[[Request, Exception], Awaitable[Response]]
    ) -> None:
        self.app = app
        self._door = door
        self._table = table
        self._answer = answer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answers, or passes the request on."""
        short = self._table.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if short is None or scope["query_string"]:
            await self.app(scope, receive, send)
            return
        scope["route"] = short.route
        request = Request(scope, receive)
        try:
            scope["caller"] = await self._door.admit(scope["headers"], short.scope)
            response = await short.handle(request)
        except Exception as error:  # noqa: BLE001  as Starlette does: each kind has its answer
            response = await self._answer(request, error)
        await response(scope, receive, send)
