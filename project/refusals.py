"""What the protocol answers by itself, before there is an application to ask: problem+json (RFC 9457) as bytes.

Used by `protocol`.
"""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from project.errors import Problem
from project.wire import encode


def written(problem: Problem, default_headers: list[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """A whole answer as bytes."""
    body = encode(problem.body())
    headers = [
        *default_headers,
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *([(b"connection", b"close")] if close else []),
    ]
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[problem.status] + head + b"\r\n" + body


OVERLOADED = Problem(
    503,
    "Overloaded",
    "more requests came than this process can take; nothing was done for this one",
    kind="/problems/overloaded",
    headers={"Retry-After": "1"},
)
SHED = written(OVERLOADED, [], close=False)
SHED_AND_CLOSE = written(OVERLOADED, [], close=True)
NOT_HTTP = Problem(400, "Bad Request", "this is not a valid HTTP/1.1 request")
