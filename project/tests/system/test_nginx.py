"""nginx shares the load, says itself who asks and from where, keeps operating routes in, and logs no health data."""

import gzip
import json
import random
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from project.app import create_app
from project.tests.keys import make_key
from project.tests.phi import files_with
from project.tests.security.test_transport import certified
from project.tests.service import Service, line, wait_until
from project.tests.system.nginx import CONFIGURATION, NOBODY, OPERATOR, Front, Nginx, fronting

pytestmark = pytest.mark.system

SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "elsewhere.example.org",
    "X-Real-IP": "203.0.113.9",
    "X-Client-IP": "203.0.113.9",
    "True-Client-IP": "203.0.113.9",
    "CF-Connecting-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https",
}


def test_the_load_is_shared(front: Front) -> None:
    def post(_: int) -> str:
        with front.nginx.client(front.pair.key) as client:
            return ",".join(str(client.post("/claims", json=[line()]).status_code) for _ in range(25))

    before = len(front.nginx.log())
    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(post, range(16))) == {",".join(["201"] * 25)}
    rows = wait_until(lambda: len(front.nginx.log()) >= before + 400 and front.nginx.log()[before:], "all are logged")
    shares = Counter(row["upstream_addr"] for row in rows)
    assert set(shares) == set(front.pair.addresses)
    assert min(shares.values()) > 0.35 * sum(shares.values())


def peers(services: list[Service]) -> list[str]:
    """Whom the services' logs name as having tried a wrong key."""
    text = "".join(service.log.read_text() for service in services)
    rows = [json.loads(row) for row in text.splitlines() if row.startswith("{")]
    return [row["peer"] for row in rows if row.get("refused") == "bad_key"]


def test_clients_are_known_by_their_own_addresses_whatever_they_claim(front: Front) -> None:
    told: list[str] = []
    for address in ("127.0.0.2", "127.0.0.3"):
        for headers in ({}, SPOOFED):
            with front.nginx.client("cpk_wrong", address) as client:
                answer = client.get("/claims", headers=headers)
            assert answer.status_code == 401
            assert "strict-transport-security" not in answer.headers  # the scheme is nginx's word, too
            told.append(address)
            assert wait_until(lambda: len(peers(front.pair.services)) == len(told), "it is logged")
            assert sorted(peers(front.pair.services)) == told
    assert {row["peer"] for row in front.nginx.logged(status=401)} == set(told)


def await_in_force(service: Service, client: httpx2.Client) -> None:
    """Until a process knows the client's key, which may not read claims."""
    headers = client.headers
    wait_until(lambda: service.http.get("/claims", headers=headers).status_code == 403, "the key is in force")


def test_the_rate_limit_is_of_the_key_whichever_process_answers_and_whatever_address_is_claimed(front: Front) -> None:
    def ask(client: httpx2.Client, number: int) -> int:
        return client.get("/top-provider", headers=SPOOFED | {"X-Forwarded-For": f"203.0.113.{number}"}).status_code

    one, other = (make_key(front.pair.database_url, name, "providers:read")["key"] for name in ("one", "other"))
    with front.nginx.client(one, "127.0.0.2") as first, front.nginx.client(other, "127.0.0.2") as second:
        for service in front.pair.services:
            await_in_force(service, first)
            await_in_force(service, second)
        assert sorted(ask(first, number) for number in range(15)) == [200] * 10 + [429] * 5
        assert ask(second, 1) == 200
    addresses = {row["upstream_addr"] for row in front.nginx.logged(route="/top-provider")}
    assert len(addresses) == 2


OPERATING = ["/metrics", "/dead-letters", "/dead-letters/x/redrive", "/grafana/", "/grafana"]
DISGUISED = ["/metrics%0A", "/%6detrics", "//metrics", "/x/../metrics", "/./metrics", "/metrics?x", "/dead%2dletters"]


@pytest.mark.parametrize("path", OPERATING + DISGUISED)
def test_operating_routes_are_for_operators_addresses_alone(front: Front, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {front.pair.key}\r\nConnection: close\r\n\r\n"
    status, headers, body = front.nginx.exchange(request.encode())
    assert (status, headers["content-type"]) == (403, "application/problem+json")
    assert json.loads(body)["detail"] == "this is for operators, and not from here"


def test_operators_still_need_a_key(front: Front) -> None:
    with front.nginx.client(front.pair.key, OPERATOR) as operator, front.nginx.client("", OPERATOR) as keyless:
        for path in ("/metrics", "/dead-letters"):
            assert operator.get(path).status_code == 200
            assert keyless.get(path).status_code == 401
        assert (
            operator.get("/grafana/").status_code == 502
        )  # nobody resolves that name here, and nginx runs all the same


def test_what_is_shipped_lets_nobody_operate_from_outside() -> None:
    rules = [row for row in (CONFIGURATION / "operators.conf").read_text().splitlines() if not row.startswith("#")]
    assert rules == ["deny all;"]


@pytest.mark.parametrize(
    "path", ["/hello", "/livez", "/readyz", "/docs", "/redoc", "/openapi.json", "/docs-assets/swagger-ui.css"]
)
def test_what_is_public_is_passed_on(front: Front, path: str) -> None:
    with front.nginx.client() as anybody:
        assert anybody.get(path).status_code == 200


def test_listings_are_compressed_for_who_takes_it(front: Front) -> None:
    with front.nginx.client(front.pair.key) as client:
        for _ in range(20):
            assert client.post("/claims", json=[line()]).status_code == 201
        packed = client.get("/claims?limit=20", headers={"Accept-Encoding": "gzip"})
        plain = client.get("/claims?limit=20", headers={"Accept-Encoding": "identity"})
        short = client.get("/hello", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.json() == plain.json()
    assert int(front.nginx.logged(route="/claims", method="GET", status=200)[-2]["bytes"]) < len(plain.content) / 2
    assert "content-encoding" not in short.headers


def test_what_clients_and_the_application_say_to_each_other_passes(front: Front) -> None:
    told = {"X-Request-ID": "an-id-of-the-client", "Idempotency-Key": "7c0e", "Prefer": "return=minimal"}
    with front.nginx.client(front.pair.key) as client:
        first, again = (client.post("/claims", json=[line()], headers=told) for _ in range(2))
        packed = client.post(
            "/claims",
            content=gzip.compress(json.dumps([line()]).encode()),
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
    assert (first.status_code, again.status_code, packed.status_code) == (201, 201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert first.headers["preference-applied"] == "return=minimal"
    assert first.headers["x-request-id"] == "an-id-of-the-client"
    assert front.nginx.logged(request_id="an-id-of-the-client")
    with front.nginx.client() as anybody:
        refused = anybody.get("/metrics", headers={"X-Request-ID": "refused-by-nginx"})
        unfit = anybody.get("/metrics", headers={"X-Request-ID": "no blanks"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (403, "refused-by-nginx")
    assert front.nginx.logged(request_id="refused-by-nginx")
    assert "blanks" not in unfit.headers["x-request-id"]
    assert first.headers["server"] == "nginx"  # without a version


def test_the_log_tells_templates_of_all_routes_and_nothing_else(front: Front) -> None:
    documented = set(create_app().openapi()["paths"])
    with front.nginx.client() as anybody:
        for path in documented:
            anybody.get(path.replace("{claim_id}", "x").replace("{letter_id}", "y"))
            front.nginx.logged(route=path) if path not in ("/livez", "/readyz") else None
        anybody.get("/no/such/path")
    [unknown] = front.nginx.logged(route="unmatched")[-1:]
    assert set(unknown) == {
        "time", "method", "route", "status", "bytes", "request_bytes", "request_time", "peer", "request_id",
        "upstream_addr", "upstream_status", "upstream_time", "upstream_connect_time", "tls", "completed",
    }  # fmt: skip


def test_a_subscriber_is_nowhere_in_what_nginx_writes(front: Front) -> None:
    mark = f"SUBSCRIBER{random.randrange(10**12)}"
    nginx, key = front.nginx, front.pair.key
    with nginx.client(key) as client:
        assert client.post("/claims", json=[line(subscriber_id=mark)]).status_code == 201
        assert client.get(f"/claims?subscriber={mark}").status_code == 422
        for path in (f"/claims/{mark}", f"/{mark}", f"/claims/{mark}/events?{mark}", f"/metrics/{mark}?{mark}"):
            assert client.get(path, headers={"User-Agent": mark, "Referer": f"http://x/{mark}", "X-Any": mark}).is_error
        assert client.request(mark.rstrip("0123456789"), f"/{mark}").is_error
    end = f"Host: {mark}\r\nConnection: close\r\n\r\n"
    for start in (f"GET /{mark} x HTTP/1.1", f"{mark} / HTTP/1.1", f"GET /%zz?{mark} HTTP/1.1", f"GET / {mark}"):
        assert nginx.exchange(f"{start}\r\n{end}".encode())[0] == 400
    nginx.exchange(f"GET /?{mark}{'x' * 60_000} HTTP/1.1\r\n{end}".encode())
    nginx.exchange(f"POST /claims?{mark} HTTP/1.1\r\nContent-Length: 99999999\r\n{end}".encode())
    with nginx.connected() as connection:  # while a body is on its way, too
        head = f"POST /claims HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 2000000\r\n\r\n[".encode() + mark.encode() * 50_000)
        assert files_with(mark, nginx.folder) == []
    with fronting(nginx.folder / "to-nobody", [NOBODY]) as lonely, lonely.client(key) as client:
        assert client.post(f"/claims?{mark}", json=[line(subscriber_id=mark)]).status_code == 502
    nginx.logged(status=413)
    assert len(nginx.log()) > 10
    assert files_with(mark, nginx.folder) == []


def test_tls_is_new_enough_and_tells_browsers_to_stay(front: Front, tmp_path: Path) -> None:
    with certified(tmp_path) as (files, authority):
        (tmp_path / "fullchain.pem").write_bytes(Path(files["SSL_CERTFILE"]).read_bytes())
        (tmp_path / "privkey.pem").write_bytes(Path(files["SSL_KEYFILE"]).read_bytes())
        with fronting(tmp_path / "nginx", front.pair.addresses, tls=tmp_path) as nginx:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            with nginx.client(front.pair.key, verify=context) as client:
                for path, status in (("/claims", 200), ("/metrics", 403)):
                    answer = client.get(path)
                    assert answer.status_code == status
                    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
            assert nginx.logged(route="/claims")[0]["tls"] == "TLSv1.3"
            status, headers, _ = nginx.exchange(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")  # plain, on the TLS port
            assert (status, headers["content-type"]) == (400, "application/problem+json")
            assert_no_old_tls(nginx, context)


def assert_no_old_tls(nginx: Nginx, context: ssl.SSLContext) -> None:
    """A client that knows nothing newer than TLS 1.1 gets no connection."""
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~ssl.OP_NO_TLSv1_1
    old: Any = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning):
        context.maximum_version = old
    with nginx.connected() as connection, pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        context.wrap_socket(connection, server_hostname="localhost")
