"""How answers are written: JSON with exact amounts, and problem+json.

Called by every route and by `telemetry.http`. A Decimal leaves as a JSON number with its own digits, never through
a float; an answer is never built by a library that could round it (docs/decisions/0005-money-on-the-wire.md).
"""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from project.errors import Problem

_encoder = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")


def encode(answer: object) -> bytes:
    """JSON text of dicts, lists, strings, integers, Decimals (as numbers) and None."""
    return _encoder.encode(answer)


class _Written(Response):
    """An answer whose headers are written already: Starlette makes them anew each time (bench: 2 lines)."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [*headers, _JSON, (b"content-length", b"%d" % len(body))]


_JSON = (b"content-type", b"application/json")


def json_response(answer: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An application/json answer."""
    return written_response(encode(answer), headers, status)


def written_response(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """The same of JSON that is written already."""
    named = [(name.lower().encode(), value.encode()) for name, value in headers.items()] if headers else []
    return _Written(body, status, named)


def problem_response(problem: Problem) -> Response:
    """An application/problem+json answer (RFC 9457) with the problem's own headers."""
    return Response(encode(problem.body()), problem.status, problem.headers, "application/problem+json")
