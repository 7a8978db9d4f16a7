"""How an answer is put on the wire: its head and its body in one piece. Used by `protocol`.

uvicorn writes them one after the other, which costs a syscall more for each answer, and looks at every header with two
regular expressions, also at those that are the same in all answers (bench: 2 lines, top-provider).
"""

from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

# Headers that have the same value in many answers.
_CONSTANT = frozenset(
    {
        b"cache-control",
        b"content-security-policy",
        b"content-type",
        b"cross-origin-opener-policy",
        b"cross-origin-resource-policy",
        b"date",
        b"permissions-policy",
        b"preference-applied",
        b"referrer-policy",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-frame-options",
    }
)


def _line(name: bytes, value: bytes) -> bytes:
    """A header as it is written; RuntimeError if it would break the head."""
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError("a header that cannot be written")
    return b"%b: %b\r\n" % (name, value)


def _has_length(headers: Any) -> bool:
    """Of a stream the head goes out at once: what follows it may take its time."""
    return any(name == b"content-length" for name, _ in headers)


_COPIED_BYTES = 64 * 1024  # copying more costs more than the syscall
_constant_line = lru_cache(maxsize=256)(_line)


class Cycle(RequestResponseCycle):
    """A request and its answer. An answer whose length is known, of one piece, to a client that takes it, is written
    here; every other by uvicorn.
    """

    _start: Any = None  # the head, until it is known what follows it

    async def send(self, message: Any) -> None:
        """A piece of the answer, as ASGI has it."""
        if message["type"] == "http.response.start" and not self.response_started and _has_length(message["headers"]):
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None and not self._written(start, message):
            await super().send(start)
            await super().send(message)
        elif start is None:
            await super().send(message)

    def _written(self, start: Any, message: Any) -> bool:
        body = message.get("body", b"")
        if (
            message["type"] != "http.response.body"
            or message.get("more_body")
            or self.disconnected
            or self.flow.write_paused
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
        ):
            return False
        head = [STATUS_LINE[start["status"]]]
        length = None
        for name, value in (*self.default_headers, *start["headers"]):
            if name == b"connection" or name == b"transfer-encoding":
                return False
            if name == b"content-length":
                length = value
            head.append((_constant_line if name in _CONSTANT else _line)(name, value))
        if length is None or int(length) != len(body):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head.append(b"\r\n")
        if len(body) <= _COPIED_BYTES:
            head.append(body)
            body = b""
        self.transport.write(b"".join(head))
        self.transport.write(body)
        self.message_event.set()
        self.on_response()
        return True
