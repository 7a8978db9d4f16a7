"""nginx's limits are the application's; what it refuses itself is told as the application tells it."""

import json
import re
import time
from pathlib import Path

import httpx2
import pytest

from project.settings import KIBIBYTE, MEBIBYTE, IntakeSettings, LimitSettings
from project.tests.conftest import Run
from project.tests.keys import make_key
from project.tests.load import stored_ids
from project.tests.service import line, wait_until
from project.tests.system.nginx import (
    CONFIGURATION,
    NOBODY,
    Front,
    Nginx,
    address_of,
    answer_on,
    directive,
    directives,
    fronting,
)
from project.web import GRACE_S

pytestmark = pytest.mark.system

PROBLEM = "application/problem+json"
UVICORN_CLOSES_AFTER_S = 5


def size(text: str) -> int:
    """Bytes of nginx's `16m` or `48k`."""
    return int(text[:-1]) * {"k": KIBIBYTE, "m": MEBIBYTE}[text[-1]]


def seconds(text: str) -> int:
    """Seconds of nginx's `30s`."""
    assert text.endswith("s")
    return int(text[:-1])


def test_the_numbers_are_those_of_the_applications_settings() -> None:
    limits, intake = LimitSettings(_env_file=None), IntakeSettings(_env_file=None)
    assert [size(most) for most in directives("client_max_body_size")] == [
        intake.max_body_bytes,
        intake.max_batch_bytes,
    ]
    told = re.findall(
        r"^    (?:default|/claims/batch) +(\d+);", (CONFIGURATION / "problems.conf").read_text(), re.MULTILINE
    )
    assert told == [str(intake.max_body_bytes), str(intake.max_batch_bytes)]
    assert f"at most {limits.max_header_bytes} bytes of request" in (CONFIGURATION / "problems.conf").read_text()
    assert size(directive("large_client_header_buffers").split()[1]) > limits.max_header_bytes
    assert seconds(directive("client_header_timeout")) == limits.header_timeout_s
    assert seconds(directive("client_body_timeout")) == limits.body_timeout_s + 5
    assert seconds(directive("send_timeout")) == limits.send_timeout_s
    assert seconds(directive("worker_shutdown_timeout")) > GRACE_S
    idle = (CONFIGURATION / "nginx.conf").read_text().split("upstream web {")[1].split("keepalive_timeout ")[1]
    assert seconds(idle.split(";")[0]) < UVICORN_CLOSES_AFTER_S


def head(key: str, *more: str) -> bytes:
    """A request line and headers of a claim."""
    headers = ["Host: localhost", "Content-Type: application/json", f"X-API-Key: {key}", *more]
    return "\r\n".join(["POST /claims HTTP/1.1", *headers, "\r\n"]).encode()


@pytest.mark.parametrize("shape", ["one header", "many headers", "query"])
def test_headers_of_the_applications_limit_pass_and_more_are_431(front: Front, shape: str) -> None:
    def asked(length: int) -> tuple[int, str, bytes]:
        query = "?" + "x" * length if shape == "query" else ""
        many = [f"X-{number:04}: {'y' * 90}" for number in range(length // 96)]
        headers = {"one header": [f"X-Large: {'x' * length}"], "many headers": many}
        rows = [f"GET /hello{query} HTTP/1.1", "Host: localhost", *headers.get(shape, []), "\r\n"]
        status, told, body = front.nginx.exchange("\r\n".join(rows).encode())
        return status, told["content-type"], body

    assert asked(32_000)[0] == 200
    for length in (36_000, 60_000, 200_000):
        status, media, body = asked(length)
        assert (status, media) in {(431, PROBLEM), (414, PROBLEM)}
        assert status == 431 or shape == "query"
        assert json.loads(body)["status"] == status


def test_bodies_of_the_applications_limit_pass_and_more_are_413(front: Front) -> None:
    most = 16 * MEBIBYTE
    headers = {"Content-Type": "application/json"}
    claim = json.dumps([line()]).encode()
    with front.nginx.client(front.pair.key) as client:
        assert client.post("/claims", content=claim + b" " * (most - len(claim)), headers=headers).status_code == 201
        for body in (b" " * (most + 1), iter([b" " * MEBIBYTE] * 17)):  # announced, and in chunks
            answer = client.post("/claims", content=body, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
            assert answer.json() == {
                "type": "about:blank",
                "title": "Content Too Large",
                "status": 413,
                "detail": "at most 16777216 bytes",
            }


def test_batches_of_the_applications_limit_pass_and_more_are_413(front: Front) -> None:
    most = 64 * MEBIBYTE
    headers = {"Content-Type": "application/x-ndjson"}
    with front.nginx.client(front.pair.key) as client:
        answer = client.post("/claims/batch", content=b"[]" + b"\n" * (most - 2), headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (200, 422)
        answer = client.post("/claims/batch", content=b" " * (most + 1), headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (413, "at most 67108864 bytes")


def test_an_answer_that_comes_before_the_body_is_passed_on(front: Front) -> None:
    with front.nginx.client("cpk_wrong") as stranger:
        for megabytes in (1, 4, 16) * 5:
            for body in (b" " * megabytes * MEBIBYTE, iter([b" " * MEBIBYTE] * megabytes)):
                answer = stranger.post("/claims", content=body, headers={"Content-Type": "application/json"})
                assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")


def test_who_is_refused_before_the_body_is_here_may_ask_again_on_the_same_connection(front: Front) -> None:
    def refusals() -> int:
        return sum(service.log.read_text().count('"refused":"bad_key"') for service in front.pair.services)

    before = refusals()
    with front.nginx.connected() as connection:
        connection.sendall(head("cpk_wrong", "Content-Length: 100") + b" " * 50)
        wait_until(lambda: refusals() > before, "it is refused")
        connection.sendall(b" " * 50)
        assert answer_on(connection)[0] == 401
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_on(connection)[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST /claims HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /claims HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"TRACE /hello HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /.problem HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /claims HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /hello HTTP/4.0\r\nHost: a\r\n\r\n", 505),
    ],
)
def test_what_nginx_refuses_is_told_as_the_application_tells_it(front: Front, request_: bytes, status: int) -> None:
    answered, headers, body = front.nginx.exchange(request_)
    problem = json.loads(body)
    assert (answered, headers["content-type"]) == (status, PROBLEM)
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    with front.nginx.client() as anybody:
        usual = anybody.get("/nowhere").headers
    for name in ("cache-control", "content-security-policy", "x-content-type-options", "x-frame-options"):
        assert headers[name] == usual[name]
    assert front.nginx.logged(request_id=headers["x-request-id"])[0]["status"] == status


def test_what_the_application_refuses_is_left_as_it_is(front: Front) -> None:
    with front.nginx.client(front.pair.key) as client:
        for path in ("/nowhere", "/claims/x", "/claims?x"):
            theirs = client.get(path)
            ours = httpx2.get(front.pair.services[0].url + path, headers=client.headers)
            assert (theirs.status_code, theirs.json()) == (ours.status_code, ours.json())


def test_a_process_that_cannot_be_reached_is_passed_over_and_none_is_told_so(front: Front, tmp_path: Path) -> None:
    claim = [line()]
    with fronting(tmp_path / "one", [NOBODY, front.pair.addresses[0]]) as nginx, nginx.client(front.pair.key) as client:
        assert {client.post("/claims", json=claim).status_code for _ in range(20)} == {201}
    with fronting(tmp_path / "none", [NOBODY]) as nginx, nginx.client(front.pair.key) as client:
        for answer in (client.post("/claims", json=claim), client.get("/claims")):
            assert (answer.status_code, answer.headers["content-type"]) == (502, PROBLEM)
            assert answer.headers["retry-after"] == "1"
        assert client.post("/claims", json=claim).json()["detail"] == "no process can be reached; nothing was done"


def closed_after(nginx: Nginx, sent: bytes, piece: bytes) -> float:
    """Seconds until a connection on which a piece now and then follows what was sent is closed, without an answer."""
    with nginx.connected(0.2) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        while time.monotonic() - began < 15:
            try:
                assert connection.recv(1000) == b""
                return time.monotonic() - began
            except TimeoutError:
                connection.sendall(piece)
            except ConnectionError:
                return time.monotonic() - began
    raise AssertionError("it was not closed")


def test_headers_that_trickle_and_bodies_that_stop_are_cut_off(front: Front, tmp_path: Path) -> None:
    shorter = {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 35s": "client_body_timeout 2s",
    }
    with fronting(tmp_path, front.pair.addresses, numbers=shorter) as nginx:
        assert 0.8 < closed_after(nginx, b"GET /hello HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x") < 5
        assert 1.8 < closed_after(nginx, head(front.pair.key, "Content-Length: 100") + b"[", b"") < 6
        assert nginx.logged(route="/claims", status=408)


def test_a_body_that_trickles_is_answered_by_the_application_in_its_time(
    serve: Run, database_url: str, tmp_path: Path
) -> None:
    key = make_key(database_url, "clinic", "claims:write")["key"]
    with (
        serve(TRUSTED_PROXIES="127.0.0.1", BODY_TIMEOUT_S="1") as service,
        fronting(tmp_path / "nginx", [address_of(service)]) as nginx,
        nginx.connected(0.2) as connection,
    ):
        began = time.monotonic()
        connection.sendall(head(key, "Content-Length: 100") + b"[")

        def answered() -> tuple[int, dict[str, str], bytes] | None:
            try:
                return answer_on(connection)
            except TimeoutError:
                connection.sendall(b" ")  # each of them well within what nginx allows
                return None

        status, headers, _ = wait_until(answered, "it is answered", 10)
        assert (status, headers["content-type"]) == (408, PROBLEM)
        assert 0.8 < time.monotonic() - began < 5


def test_one_address_may_not_have_more_than_its_share_in_hand(front: Front, tmp_path: Path) -> None:
    before = stored_ids(front.pair.database_url)
    with (
        fronting(
            tmp_path, front.pair.addresses, numbers={"limit_conn addresses 512": "limit_conn addresses 2"}
        ) as nginx,
        nginx.connected() as first,
        nginx.connected() as second,
        nginx.client(front.pair.key) as third,
        nginx.client(front.pair.key, "127.0.0.2") as other,
    ):
        body = json.dumps([line()]).encode()
        for connection in (first, second):
            connection.sendall(head(front.pair.key, f"Content-Length: {len(body)}", "Expect: 100-continue") + body[:10])
            assert b"100 Continue" in connection.recv(1000)  # it is in hand
        refused = third.get("/claims")
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/overloaded"
        assert refused.headers["retry-after"] == "1"
        assert other.get("/claims").status_code == 200
        for connection in (first, second):
            connection.sendall(body[10:])
            assert answer_on(connection)[0] == 201
        assert wait_until(lambda: third.get("/claims").status_code == 200, "there is room again")
    assert len(stored_ids(front.pair.database_url) - before) == 2
