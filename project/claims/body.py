"""Reads a request's body within its bounds: bytes, time, and what gzip may swell to. Called by `routes`."""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from project.errors import Overloaded, Problem

_GZIP = 31  # zlib's word for a gzip wrapper
_PIECE_BYTES = 64 * 1024
MAX_GZIP_MEMBERS = 1000


def media_type(request: Request, accepted: dict[str, str]) -> str:
    """The value in `accepted` of the request's media type; any charset but UTF-8, and any other type, is 415."""
    essence, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = accepted.get(essence.strip().lower())
    charset = next(
        (value.strip(' "').lower() for name, _, value in map(_split, parameters.split(";")) if name == "charset"),
        "utf-8",
    )
    if kind is None or charset not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(
            415,
            "Unsupported Media Type",
            f"send {' or '.join(sorted(accepted))}, in UTF-8",
            headers={"Accept-Post": ", ".join(sorted(accepted))},
        )
    return kind


def _split(parameter: str) -> tuple[str, str, str]:
    name, equals, value = parameter.partition("=")
    return name.strip().lower(), equals, value


def is_packed(request: Request) -> bool:
    """Whether the body comes as gzip; another Content-Encoding is a 415 Problem."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise Problem(
            415, "Unsupported Media Type", "the only Content-Encoding is gzip", headers={"Accept-Encoding": "gzip"}
        )
    return encoding == "gzip"


class Arriving:
    """The bytes of all bodies that are on their way into this process; no more than `most` of them are held."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """For one body: tell it of each piece; Overloaded when there is no room for that one."""
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            if mine != self._held and self._held + size > self._most:  # a body that is alone has its own limit
                raise Overloaded("too many bodies are on their way; nothing was stored")
            mine += size
            self._held += size

        try:
            yield hold
        finally:
            self._held -= mine


async def read(request: Request, max_bytes: int, timeout_s: float, arriving: Arriving) -> bytes:
    """The whole body as it came.

    Raises Problem: 413 past `max_bytes`, 408 when it does not arrive within `timeout_s` seconds, 400 if it breaks off,
    503 when others' bodies leave no room for it.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            with arriving.body() as hold:
                return await _collect(request, max_bytes, hold)
    except TimeoutError:
        raise Problem(
            408, "Request Timeout", "the body took too long to arrive", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise Problem(400, "Bad Request", "the connection closed before the body ended") from None


async def _collect(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    content = bytearray()  # no list of pieces: a client that sends two bytes at a time would make millions of them
    async for chunk in request.stream():
        if len(content) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        hold(len(chunk))
        content += chunk
    return bytes(content)


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
