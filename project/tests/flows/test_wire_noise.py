"""Connections that mix good, bad, cut and slow requests in every order: nothing hangs, leaks, or is told as an error."""

import json
import os
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from project.tests.conftest import Run
from project.tests.service import Service, line, wait_until
from project.tests.test_protocol_limits import open_connections

CLIENTS = 32
CONNECTIONS_EACH = 6
ANSWERED_WITHIN_S = 8.0
BODY = json.dumps([line()]).encode()
HOST = b"Host: localhost\r\n"
TYPE = b"Content-Type: application/json\r\n"


def post(body: bytes = BODY, more: bytes = b"") -> bytes:
    return b"POST /claims HTTP/1.1\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (HOST, TYPE, more, len(body), body)


def get(target: bytes, more: bytes = b"", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, HOST, more)


def chunked(rest: bytes) -> bytes:
    return b"POST /claims HTTP/1.1\r\n" + HOST + TYPE + b"Transfer-Encoding: chunked\r\n\r\n" + rest


def noise(dice: random.Random) -> bytes:
    """One request, or what is none."""
    return dice.choice(
        [
            post(),
            post(b"{"),
            post(more=b"Connection: close\r\n"),
            post(more=b"Expect: 100-continue\r\n"),
            post(more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            get(b"/hello"),
            get(b"/claims?limit=3"),
            get(b"http://localhost/hello"),
            get(b"/claims", method=b"HEAD"),
            get(b"*", method=b"OPTIONS"),
            get(b"/hello", b"X: " + b"y" * 40_000 + b"\r\n"),
            b"GET /hello HTTP/1.0\r\n\r\n",
            b"GET /hello HTTP/1.1\r\n\r\n",
            chunked(b"%x\r\n%b\r\n0\r\nX-T: y\r\n\r\n" % (len(BODY), BODY)),
            chunked(b"zz\r\n"),
            get(b"/hello", b"Content-Length: 50\r\n") + b"x" * dice.randrange(51),
            b"\r\n",
            os.urandom(dice.randrange(1, 60)),
        ]
    )


def talk(service: Service, dice: random.Random) -> list[str]:
    """One connection; the statuses that it was answered. It must be closed in time, unless we leave first."""
    port = int(service.url.rsplit(":", 1)[1])
    said = b"".join(noise(dice) for _ in range(dice.choice([1, 2, 3, 6])))
    if dice.random() < 0.2:
        said = said[: dice.randrange(len(said) + 1)]
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWERED_WITHIN_S) as connection:
        try:
            middle = dice.randrange(len(said) + 1)
            connection.sendall(said[:middle])
            if dice.random() < 0.3:
                time.sleep(dice.random() / 10)
            connection.sendall(said[middle:])
            if dice.random() < 0.25:
                return []
            if dice.random() < 0.1:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            raise AssertionError(f"neither answered nor closed: {said!r}") from None
        except OSError:
            pass  # it was cut off
    return [status.decode() for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_nothing_hangs_or_leaks_or_is_an_error(serve: Run) -> None:
    limits = {"HEADER_TIMEOUT_S": "1", "BODY_TIMEOUT_S": "1.5", "MAX_CONNECTIONS": "60"}
    with serve(MAX_REQUESTS_IN_HAND="2", **limits) as service:

        def client(number: int) -> list[str]:
            dice = random.Random(number)
            return [status for _ in range(CONNECTIONS_EACH) for status in talk(service, dice)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = [status for answered in pool.map(client, range(CLIENTS)) for status in answered]
        assert {"200", "201", "400", "503"} <= set(statuses)
        assert not [status for status in statuses if status.startswith("5") and status != "503"]
        assert [service.submit([line()]).status_code for _ in range(10)] == [
            201
        ] * 10  # nothing counts as in hand still
        service.http.close()
        wait_until(lambda: open_connections(service) == 0, "no connection is left")
        log = service.log.read_text()
        assert '"level":"error"' not in log
        assert "Traceback" not in log
