"""A way to Postgres that can be cut at a chosen message: the connection dies where a test wants it to.

It listens on a socket folder of its own and passes bytes on, so what lies behind it is the real server.
"""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Cuts the first connection that sends the marked bytes, before or after the server has had them.

    While `open` is cleared, connections are taken but nothing passes.
    """

    def __init__(self, folder: str, server_socket: str, url: str) -> None:
        self.url = url
        self.cuts = 0
        self._folder = folder
        self._server_socket = server_socket
        self._before: bytes | None = None
        self._after: bytes | None = None
        self._refuse = False
        self._refuse_once_cut = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.open = asyncio.Event()
        self.open.set()

    def drop_request(self, marked: bytes) -> None:
        """The next message with these bytes never arrives."""
        self._before = marked

    def drop_answer_of(self, marked: bytes, *, and_refuse_connections: bool = False) -> None:
        """The next message with these bytes arrives and is carried out; its answer is lost."""
        self._after = marked
        self._refuse_once_cut = and_refuse_connections

    def cut_all(self) -> int:
        """Cuts every connection there is now; how many."""
        alive = [task for task in self.tasks if not task.done()]
        for task in alive:
            task.cancel()
        return len(alive)

    def refuse_connections(self) -> None:
        """From now on nobody gets through."""
        self._refuse = True

    def accept_connections(self) -> None:
        """They get through again."""
        self._refuse = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until a side ends it or it is cut."""
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass  # cut, or no server is there
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse:
            writer.close()
            return
        await self.open.wait()
        to_server = await asyncio.open_unix_connection(self._server_socket)
        back = asyncio.create_task(pass_on(to_server[0], writer))
        try:
            await self._forward(reader, to_server[1], back)
        finally:
            for side in (to_server[1], writer):
                side.close()
            back.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await back

    async def _forward(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, back: asyncio.Task[None]
    ) -> None:
        with suppress(ConnectionError):
            while message := await reader.read(65536):
                if self._before and self._before in message:
                    self._before = None
                    self.cuts += 1
                    return
                if self._after and self._after in message:
                    self._after = None
                    self.cuts += 1
                    self._refuse = self._refuse_once_cut
                    await self._let_server_finish(to_server, message, back)
                    return
                to_server.write(message)
                await to_server.drain()

    @staticmethod
    async def _let_server_finish(to_server: asyncio.StreamWriter, message: bytes, back: asyncio.Task[None]) -> None:
        """Sends the message and then Terminate, and waits until the server has closed: then it has carried it out."""
        back.cancel()
        with suppress(asyncio.CancelledError):
            await back
        to_server.write(message + b"X\x00\x00\x00\x04")
        await to_server.drain()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one side to the other, until there are no more."""
    with suppress(ConnectionError):
        while message := await reader.read(65536):
            writer.write(message)
            await writer.drain()


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the database of this URL, which must name a socket folder."""
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query)["host"][0]
    with tempfile.TemporaryDirectory(prefix="cut") as made:
        url = parts._replace(query=f"host={made}").geturl()
        proxy = Proxy(made, str(Path(folder) / ".s.PGSQL.5432"), url)
        server = await asyncio.start_unix_server(proxy.serve, str(Path(made) / ".s.PGSQL.5432"))
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy.tasks:
                task.cancel()
            await asyncio.gather(*proxy.tasks, return_exceptions=True)


@contextmanager
def proxied_in_a_thread(database_url: str) -> Iterator[Proxy]:
    """The same for a test that is not async. Of the proxy's words all but `cut_all` may be said from any thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    around = proxied(database_url)
    try:
        yield asyncio.run_coroutine_threadsafe(around.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(around.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
