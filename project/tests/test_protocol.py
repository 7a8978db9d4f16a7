"""What reaches the port without being HTTP, or only barely."""

import socket

import pytest

from project.tests.conftest import Run
from project.tests.service import Service


def exchange(service: Service, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to raw bytes: status, headers, body."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return parsed(received)


def parsed(received: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    head, body = received.split(b"\r\n\r\n", 1)
    first, *rest = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, value in (row.split(": ", 1) for row in rest)}, body


POST = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        POST + b"Content-Length: many\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: \x1b[31m\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400_problem_json(service: Service, request_: bytes) -> None:
    status, headers, body = exchange(service, request_)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert b'"status":400' in body


@pytest.mark.parametrize("length", [b"16777217", b"999999999999"])
def test_a_body_announced_too_large_is_refused_before_it_comes(service: Service, length: bytes) -> None:
    status, headers, _ = exchange(service, POST + b"Content-Length: " + length + b"\r\n\r\n")
    assert (status, headers["content-type"], headers["connection"]) == (413, "application/problem+json", "close")


@pytest.mark.parametrize(
    "path",
    [
        b"/claims/",
        b"/claims/%00",
        b"/claims/%ff",
        b"/docs-assets/%2e%2e/%2e%2e/etc/passwd",
        b"/docs-assets/%00",
        b"//",
        b"/%0d%0a",
    ],
)
def test_odd_paths_are_problems_and_never_redirects(service: Service, path: bytes) -> None:
    status, headers, _ = exchange(
        service, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert status in (404, 422)
    assert headers["content-type"] == "application/problem+json"
    assert "location" not in headers


def test_a_body_that_trickles_is_cut_off(serve: Run) -> None:
    with serve(BODY_TIMEOUT_S="0.3") as service:
        status, headers, _ = exchange(service, POST + b"Content-Length: 100\r\n\r\n[")
        assert (status, headers["content-type"], headers["connection"]) == (408, "application/problem+json", "close")
