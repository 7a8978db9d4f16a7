"""Shows why httpx is not used: requests a second, 32 at a time, to a bare server. Needs an environment of its own:

python3 -m venv /tmp/clients
/tmp/clients/bin/pip install httpx==0.28.1 httpx2==2.16.2 aiohttp==3.14.5
/tmp/clients/bin/python docs/decisions/shown/why_not_httpx.py
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import httpx
import httpx2

ANSWER = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
AT_ONCE = 32
SECONDS = 3.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request whose body is two bytes long."""
    with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(ANSWER)
    writer.close()


async def rate(post: Callable[[], Awaitable[object]]) -> float:
    """Posts a second."""
    until = time.perf_counter() + SECONDS

    async def client() -> int:
        done = 0
        while time.perf_counter() < until:
            await post()
            done += 1
        return done

    return sum(await asyncio.gather(*(client() for _ in range(AT_ONCE)))) / SECONDS


async def main() -> None:
    """Each library in turn."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = "http://127.0.0.1:{}/".format(server.sockets[0].getsockname()[1])
    json = {"Content-Type": "application/json"}
    async with httpx.AsyncClient() as old, httpx2.AsyncClient() as new, aiohttp.ClientSession() as session:

        async def by_aiohttp() -> None:
            async with session.post(url, data=b"{}", headers=json) as response:
                await response.read()

        print(f"httpx   {await rate(lambda: old.post(url, content=b'{}', headers=json)):8.0f} a second")
        print(f"httpx2  {await rate(lambda: new.post(url, content=b'{}', headers=json)):8.0f} a second")
        print(f"aiohttp {await rate(by_aiohttp):8.0f} a second")


if __name__ == "__main__":
    asyncio.run(main())
