"""Reads a request's body within its bounds: bytes, time, and what gzip may swell to. Called by `routes`."""

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Receive

from project.errors import Overloaded, Problem

_GZIP = 31  # zlib's word for a gzip wrapper
_PIECE_BYTES = 64 * 1024
MAX_GZIP_MEMBERS = 1000


class Arriving:
    """The bodies that are on their way into this process: at most `most` bytes of them are held, and each has
    `timeout_s` seconds.

    One timer serves them all, since nearly every body is here already; a timer for each is worth 7 us (bench: 2 lines).
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._held = 0
        self._due: dict[asyncio.Task[Any], float] = {}  # who reads, until when; in the order of their beginning
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, mine: int, size: int) -> int:
        """Room for a piece of a body that holds `mine` bytes: how many it holds then. Overloaded when there is none."""
        if mine != self._held and self._held + size > self._most:  # a body that is alone has its own limit
            raise Overloaded("too many bodies are on their way; nothing was stored")
        self._held += size
        return mine + size

    def let_go(self, mine: int) -> None:
        """The body is read, or given up."""
        self._held -= mine

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """TimeoutError once `timeout_s` seconds are over."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task
        self._due[task] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_at(self._due[task], self._end_late)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._due or task.uncancel():  # somebody else wants it to end
                raise
            raise TimeoutError from None
        finally:
            self._due.pop(task, None)

    def _end_late(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._due:
            task, due = next(iter(self._due.items()))
            if due > loop.time():
                self._timer = loop.call_at(due, self._end_late)
                return
            del self._due[task]
            task.cancel()


async def read(receive: Receive, declared: int, max_bytes: int, arriving: Arriving) -> bytes:
    """The whole body as it came; `declared` is its Content-Length.

    Raises Problem: 413 past `max_bytes`, 408 when it does not arrive in time, 400 if it breaks off, 503 when others'
    bodies leave no room for it.
    """
    if declared > max_bytes:
        raise _too_large(max_bytes)
    try:
        with arriving.in_time():
            return await _collect(receive, max_bytes, arriving)
    except TimeoutError:
        raise Problem(
            408, "Request Timeout", "the body took too long to arrive", headers={"Connection": "close"}
        ) from None


async def _collect(receive: Receive, max_bytes: int, arriving: Arriving) -> bytes:
    content = bytearray()  # no list of pieces: a client that sends two bytes at a time would make millions of them
    held = 0
    try:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Problem(400, "Bad Request", "the connection closed before the body ended")
            chunk: bytes = message.get("body", b"")
            if held + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            held = arriving.hold(held, len(chunk))
            if held == len(chunk) and not message.get("more_body"):
                return chunk
            content += chunk
            if not message.get("more_body"):
                return bytes(content)
    finally:
        arriving.let_go(held)


def unpacked(packed: bytes, max_bytes: int) -> bytes:
    """The content of all gzip members (RFC 1952), never more than `max_bytes` of it in memory.

    Raises Problem: 413 past `max_bytes`, 400 for what is not gzip.

    It is fed in pieces, since what follows a member is copied at its end: a body of a million tiny members, all of
    whose rest is copied a million times, would stop the process.
    """
    content = bytearray()
    member, members = zlib.decompressobj(_GZIP), 1
    for start in range(0, len(packed), _PIECE_BYTES):
        piece = packed[start : start + _PIECE_BYTES]
        while piece:
            if member.eof:
                member, members = zlib.decompressobj(_GZIP), members + 1
            try:
                content += member.decompress(piece, max_bytes - len(content) + 1)
            except zlib.error:
                raise _not_gzip("the body is not the gzip that its Content-Encoding says") from None
            if len(content) > max_bytes:
                raise Problem(413, "Content Too Large", f"at most {max_bytes} bytes once it is unpacked")
            if members > MAX_GZIP_MEMBERS:
                raise _not_gzip(f"the gzip body has more than {MAX_GZIP_MEMBERS} members")
            piece = member.unused_data
    if not member.eof:
        raise _not_gzip("the gzip body ends too early")
    return bytes(content)


def _not_gzip(detail: str) -> Problem:
    return Problem(400, "Bad Request", detail)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "Content Too Large", f"at most {max_bytes} bytes", headers={"Connection": "close"})
