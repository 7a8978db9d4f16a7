"""What a web process that is told to stop still does for its proxy, and for others. With nginx: system/."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from project.tests.conftest import Run
from project.tests.keys import make_key
from project.tests.service import Service, wait_until
from project.tests.test_protocol import parsed

PROXY, STRANGER = "127.0.0.5", "127.0.0.6"
HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
processes = pytest.mark.parametrize("processes", ["1", "2"])


@contextmanager
def draining(serve: Run, database_url: str, processes: str) -> Iterator[Service]:
    """Web processes that trust a proxy."""
    make_key(database_url, "clinic", "claims:write")
    with serve(TRUSTED_PROXIES=PROXY, WEB_WORKERS=processes) as service:
        service.http.close()  # it would be a connection like others
        yield service


@contextmanager
def connected_from(service: Service, address: str) -> Iterator[socket.socket]:
    """A raw connection of this address."""
    target = ("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
    with socket.create_connection(target, 10, source_address=(address, 0)) as connection:
        yield connection


def says_hello(connection: socket.socket) -> str:
    """Whether the connection stays, as its answer to a request tells: `close`, or nothing."""
    connection.sendall(HELLO)
    received = b""
    while not received.endswith(b'{"ping":"hello!"}'):
        piece = connection.recv(65536)
        assert piece, "it was closed without an answer"
        received += piece
    return parsed(received)[1].get("connection", "")


def refuses(service: Service) -> bool:
    """Whether nobody can connect any more; a connection that is not accepted would be as bad as one that is reset."""
    try:
        with connected_from(service, PROXY):
            return False
    except ConnectionRefusedError:
        return True


def told_to_stop(service: Service) -> float:
    """SIGTERM; when it was. It has stopped listening when this returns."""
    service.process.send_signal(signal.SIGTERM)
    at = time.monotonic()
    wait_until(lambda: refuses(service), "it does not listen")
    return at


@processes
def test_an_idle_connection_of_the_proxy_is_answered_once_more(serve: Run, database_url: str, processes: str) -> None:
    with draining(serve, database_url, processes) as service, ExitStack() as stack:
        kept = [stack.enter_context(connected_from(service, PROXY)) for _ in range(20)]
        fresh = [stack.enter_context(connected_from(service, PROXY)) for _ in range(5)]
        assert {says_hello(connection) for connection in kept} == {""}
        told_to_stop(service)
        for connection in kept + fresh:
            assert says_hello(connection) == "close"
            assert connection.recv(1) == b""
        assert service.process.wait(5) in (0, -signal.SIGTERM)


def test_one_that_the_proxy_leaves_idle_is_closed_in_time(serve: Run, database_url: str) -> None:
    with draining(serve, database_url, "1") as service, connected_from(service, PROXY) as connection:
        assert says_hello(connection) == ""
        at = told_to_stop(service)
        assert connection.recv(1) == b""
        assert 3 < time.monotonic() - at < 8  # LEAVING_IDLE_S, counted from the stop
        assert service.process.wait(5) == -signal.SIGTERM


def test_the_proxy_is_the_one_that_closes_an_idle_connection(serve: Run, database_url: str) -> None:
    with draining(serve, database_url, "1") as service, ExitStack() as stack:
        proxy, stranger = (stack.enter_context(connected_from(service, one)) for one in (PROXY, STRANGER))
        assert says_hello(proxy) == says_hello(stranger) == ""
        assert stranger.recv(1) == b""  # after uvicorn's 5 s
        assert says_hello(proxy) == ""


@processes
def test_idle_connections_of_others_do_not_hold_up_the_stop(serve: Run, database_url: str, processes: str) -> None:
    with draining(serve, database_url, processes) as service, connected_from(service, STRANGER) as connection:
        assert says_hello(connection) == ""
        at = told_to_stop(service)
        assert connection.recv(1) == b""
        assert service.process.wait(10) in (0, -signal.SIGTERM)
        assert time.monotonic() - at < 4


@processes
def test_who_has_connected_before_the_stop_is_answered(serve: Run, database_url: str, processes: str) -> None:
    with draining(serve, database_url, processes) as service, ExitStack() as stack:
        service.process.send_signal(signal.SIGSTOP)  # of one process all of it, of several the parent
        waiting = [stack.enter_context(connected_from(service, PROXY)) for _ in range(100)]
        for connection in waiting:
            connection.sendall(HELLO)
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGCONT)
        for connection in waiting:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
