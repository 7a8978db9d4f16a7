"""What a peer may take of headers, time, connections and answers before it is cut off, over raw sockets."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from project.tests.conftest import Run
from project.tests.service import Service, line, wait_until
from project.tests.test_protocol import exchange, parsed

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = (
    b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@contextmanager
def connected(service: Service, timeout_s: float = 10.0) -> Iterator[socket.socket]:
    """A raw connection."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        yield connection


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def sent_until_refused(connection: socket.socket, piece: Callable[[int], bytes], most: int) -> tuple[int, int]:
    """How many pieces went out until an answer came, and its status."""
    connection.settimeout(0.02)
    for number in range(most):
        try:
            connection.sendall(piece(number))
            answer = connection.recv(65536)
        except TimeoutError:
            continue
        return number, int(answer.split()[1])
    raise AssertionError(f"{most} pieces were taken")


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"X-Large: " + b"x" * 40_000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: y\r\n" % number for number in range(6000)) + b"\r\n",
        b"GET /claims?" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"X" * 40_000 + b": y\r\n\r\n",
    ],
)
def test_large_headers_are_431(service: Service, request_: bytes) -> None:
    status, headers, body = exchange(service, request_)
    assert (status, headers["content-type"], headers["connection"]) == (431, "application/problem+json", "close")
    assert b"at most 32768 bytes" in body


@pytest.mark.parametrize("start", [GET + b"X-Endless: ", b"GET /", GET + b"X-"])
def test_headers_without_end_are_cut_off(service: Service, start: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(start)
        pieces, status = sent_until_refused(connection, lambda _: b"x" * 4096, 40)
        assert (status, pieces <= 16) == (431, True)


def test_headers_below_the_limit_are_served(serve: Run) -> None:
    with serve(MAX_HEADER_BYTES="2048") as service:
        fits = GET + b"X-Large: " + b"x" * 1900 + b"\r\nConnection: close\r\n\r\n"
        assert exchange(service, fits)[0] == 200
        assert exchange(service, fits.replace(b"X-Large: ", b"X-Large: " + b"x" * 200))[0] == 431


def test_trailers_count_and_do_not_become_headers(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(CHUNKED + b"2\r\n[]\r\n0\r\n")
        _, status = sent_until_refused(connection, lambda number: b"X-%d: %b\r\n" % (number, b"y" * 2000), 60)
        assert status == 431
    body = b"2\r\n[]\r\n0\r\nIdempotency-Key: \x22\r\n\r\n"
    status, _, _ = exchange(service, CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
    assert status == 422  # for its body; the malformed key in the trailer is no header


def test_framing_around_next_to_nothing_is_cut_off(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(CHUNKED)
        chunk = b"1;" + b"x" * 4000 + b"\r\n \r\n"
        _, status = sent_until_refused(connection, lambda _: chunk, 100)
        assert status == 431


def test_a_body_in_chunks_of_one_byte_is_taken(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        for start in range(0, 50_000, 1000):
            connection.sendall(b"1\r\n \r\n" * 1000 if start else b"1\r\n[\r\n")
        connection.sendall(b"1\r\n]\r\n0\r\n\r\n")
        assert parsed(rest_of(connection))[0] == 422  # a claim without lines


@pytest.mark.parametrize("start", [b"GET /hel", GET, GET + b"X-Slow: ", b"\r\n", b""])
def test_headers_that_trickle_are_cut_off(serve: Run, start: bytes) -> None:
    with serve(HEADER_TIMEOUT_S="0.4") as service, connected(service) as connection:
        connection.sendall(start)
        began = time.monotonic()
        received = b""
        connection.settimeout(0.05)
        while time.monotonic() - began < 5:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                connection.sendall(b"\r\n" if start in (b"", b"\r\n") else b"x")  # a byte now and then
                continue
            except ConnectionError:
                break
            received += chunk
            if not chunk:
                break
        assert time.monotonic() - began < 4
        if b"GET" in start:
            status, headers, _ = parsed(received)
            assert (status, headers["content-type"]) == (408, "application/problem+json")


def test_an_idle_connection_may_ask_again_and_is_closed_later(serve: Run) -> None:
    with serve(HEADER_TIMEOUT_S="0.4") as service, connected(service) as connection:
        for _ in range(3):
            connection.sendall(GET + b"\r\n")
            received = b""
            while not received.endswith(b'{"ping":"hello!"}'):
                received += connection.recv(65536)
            time.sleep(0.6)  # longer than headers may take: between requests that does not count
        assert rest_of(connection) == b""


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
def test_just_one_host_is_required(service: Service, hosts: bytes) -> None:
    status, headers, body = exchange(service, b"GET /hello HTTP/1.1\r\n" + hosts + b"\r\n")
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert b"exactly one Host" in body


@pytest.mark.parametrize(("target", "status"), [(b"http://localhost/hello", 200), (b"http://evil.example/hello", 403)])
def test_the_host_of_an_absolute_target_counts(service: Service, target: bytes, status: int) -> None:
    request = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(service, request)[0] == status


@pytest.mark.parametrize(
    "request_", [b"OPTIONS * HTTP/1.1\r\n", b"CONNECT localhost:80 HTTP/1.1\r\n", b"GET //[ HTTP/1.1\r\n"]
)
def test_odd_targets_are_problems(service: Service, request_: bytes) -> None:
    status, headers, _ = exchange(service, request_ + b"Host: localhost\r\nConnection: close\r\n\r\n")
    assert 400 <= status < 500
    assert headers["content-type"] == "application/problem+json"


def test_an_upgrade_is_not_taken_up(service: Service) -> None:
    for protocol in (b"websocket", b"h2c"):
        status, _, _ = exchange(service, GET + b"Connection: Upgrade, close\r\nUpgrade: " + protocol + b"\r\n\r\n")
        assert status == 200


def test_garbage_behind_a_request_does_not_swallow_its_answer(service: Service) -> None:
    status, _, body = exchange(service, GET + b"\r\n" + b"garbage\r\n\r\n")
    assert (status, body) == (200, b'{"ping":"hello!"}')


def test_a_bad_request_behind_a_good_one_does_not_take_its_place(service: Service) -> None:
    body = json.dumps([line()]).encode()
    post = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    for bad in (b"GET /hello HTTP/1.1\r\n\r\n", GET + b"X-Large: " + b"x" * 40_000 + b"\r\n\r\n"):
        status, headers, _ = exchange(service, post % (len(body), body) + bad)
        assert (status, headers["connection"]) == (201, "close")


def test_a_slow_body_behind_an_answered_request_is_waited_for(service: Service) -> None:
    body = json.dumps([line()]).encode()
    head = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with connected(service) as connection:
        connection.sendall(GET + b"\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        time.sleep(2.5)  # longer than the rest of a refused request is waited for
        connection.sendall(body[5:])
        received = rest_of(connection)
        assert received.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 201" in received


def test_an_answer_that_comes_before_its_request_is_not_lost(service: Service) -> None:
    """The client goes on sending what nobody wants, and reads only then."""
    head = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/nonsense\r\nContent-Length: 8000000\r\n\r\n"
    with connected(service) as connection:
        connection.sendall(head)
        for _ in range(8):
            connection.sendall(b"x" * 1_000_000)
        connection.sendall(GET + b"Connection: close\r\n\r\n")
        received = rest_of(connection)
        assert received.startswith(b"HTTP/1.1 415")
        assert received.endswith(b'{"ping":"hello!"}')


def test_a_refused_body_that_does_not_come_is_not_waited_for(service: Service) -> None:
    head = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/nonsense\r\nContent-Length: 100\r\n\r\n"
    with connected(service) as connection:
        connection.sendall(head)
        began = time.monotonic()
        assert rest_of(connection).startswith(b"HTTP/1.1 415")
        assert time.monotonic() - began < 6


def test_one_connection_too_many_is_told_so(serve: Run) -> None:
    with serve(MAX_CONNECTIONS="20") as service, ExitStack() as stack:
        service.http.close()  # its own kept connection
        for _ in range(20):
            stack.enter_context(connected(service))
        with connected(service) as late:
            status, headers, _ = parsed(rest_of(late))
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        stack.close()

        def served() -> bool:
            return exchange(service, GET + b"Connection: close\r\n\r\n")[0] == 200

        wait_until(served, "it serves again")


def open_connections(service: Service) -> int:
    """How many connections the service's process has, beside what it listens on."""
    port = int(service.url.rsplit(":", 1)[1])
    rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(row[1].split(":")[1], 16) == port and row[3] == "01" for row in rows)


def test_an_answer_that_nobody_takes_is_cut_off(serve: Run) -> None:
    with serve(SEND_TIMEOUT_S="1") as service:
        claim = service.accepted([line()] * 10_000, Prefer="return=minimal")
        request = f"GET /claims/{claim['id']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        service.http.close()
        with ExitStack() as stack:
            for _ in range(8):
                greedy = stack.enter_context(closing(socket.socket()))
                greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                host, port = service.url.removeprefix("http://").split(":")
                greedy.connect((host, int(port)))
                greedy.sendall(request)
            wait_until(lambda: open_connections(service) == 8, "the answers are on their way")
            wait_until(lambda: open_connections(service) == 0, "they are cut off", within_s=10)
        assert exchange(service, GET + b"Connection: close\r\n\r\n")[0] == 200
