"""A gate on the way to the payments service, where a test may do something before or after a call is handled.

It is a real HTTP server that passes real calls on; the service behind it is the stand-in.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import ClientSession, web


class Gate:
    """`before` and `after` are called with the path of each POST, in a thread of their own; it waits for them. What only
    asks (GET) passes unseen, since a worker asks whenever it likes.

    `calls` are the paths so far, `traceparents` what they bore; `answers` are the statuses that the service behind gave,
    also to a caller that has left.
    """

    def __init__(self, target: str) -> None:
        self.url = ""
        self.before: Callable[[str], object] = lambda path: None
        self.after: Callable[[str], object] = lambda path: None
        self.calls: list[str] = []
        self.traceparents: list[str | None] = []
        self.answers: list[int] = []
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _pass_on(self, request: web.Request) -> web.Response:
        seen = request.method == "POST"
        if seen:
            self.calls.append(request.path)
            self.traceparents.append(request.headers.get("traceparent"))
        content = await request.read()  # first, since a caller that leaves takes an unread body along
        if seen:
            await asyncio.to_thread(self.before, request.path)
        async with (
            ClientSession() as session,
            session.request(
                request.method,
                f"{self._target}{request.path_qs}",
                data=content,
                headers={name: value for name, value in request.headers.items() if name != "Host"},
            ) as answer,
        ):
            body = await answer.read()
        if seen:
            self.answers.append(answer.status)
            await asyncio.to_thread(self.after, request.path)
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def _open(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    @contextmanager
    def open(self) -> Iterator["Gate"]:
        """Serves until the block ends."""
        self._thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
