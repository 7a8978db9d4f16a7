"""What every answer tells browsers, whose forwarded addresses are believed, CORS, and TLS by the service itself."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import trustme

from project.tests.conftest import Run
from project.tests.keys import bearing, make_key
from project.tests.service import Service, line, wait_until

STRICT = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "path", ["/claims", "/claims/no-uuid", "/hello", "/nowhere", "/metrics", "/openapi.json", "/top-provider"]
)
def test_every_answer_is_no_page_no_frame_and_not_kept(service: Service, path: str) -> None:
    answer = service.http.get(path)
    assert {name: answer.headers.get(name) for name in STRICT} == STRICT
    assert answer.headers["content-security-policy"] == NOTHING
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers  # it is plain HTTP
    assert "server" not in answer.headers


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_runs_its_own_scripts_and_no_others(service: Service, page: str) -> None:
    policy = service.http.get(page).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "frame-ancestors 'none'" in policy


def test_assets_may_be_kept_and_asked_for_again(service: Service) -> None:
    answer = service.http.get("/docs-assets/swagger-ui.css")
    assert "cache-control" not in answer.headers
    again = service.http.get("/docs-assets/swagger-ui.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_no_other_origin_may_read_unless_it_is_configured(service: Service, serve: Run) -> None:
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "GET"}
    for method, path in (("OPTIONS", "/top-provider"), ("GET", "/top-provider")):
        answer = service.http.request(method, path, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    with serve(CORS_ORIGINS="http://localhost:3000, https://dash.example.org") as open_to_one:
        for origin in ("http://localhost:3000", "https://dash.example.org"):
            preflight = open_to_one.http.options(
                "/top-provider", headers={**asked, "Origin": origin, "Access-Control-Request-Headers": "authorization"}
            )
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            read = open_to_one.http.get("/top-provider", headers={"Origin": origin})
            assert read.headers["access-control-allow-origin"] == origin
            assert "RateLimit" in read.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in read.headers
        other = open_to_one.http.get("/top-provider", headers={"Origin": "http://localhost:4000"})
        assert "access-control-allow-origin" not in other.headers


def peers(service: Service) -> list[str]:
    """Whom the log names as having tried a wrong key, so far."""
    rows = [json.loads(row) for row in service.log.read_text().splitlines() if row.startswith("{")]
    return [row["peer"] for row in rows if row.get("refused") == "bad_key"]


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [("", "127.0.0.1"), ("10.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "203.0.113.9"), ("127.0.0.0/8, 10.0.0.1", "203.0.113.9")],
)  # fmt: skip
def test_a_forwarded_address_is_believed_of_trusted_proxies_alone(
    serve: Run, database_url: str, trusted: str, believed: str
) -> None:
    make_key(database_url, "clinic", "claims:read")
    with serve(TRUSTED_PROXIES=trusted) as service:
        # what stands left of the last address that a trusted proxy added is the client's own invention
        sent = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Forwarded-Proto": "https", **bearing("cpk_x")}
        answer = service.http.get("/claims", headers=sent)
        assert answer.status_code == 401
        assert wait_until(lambda: peers(service), "it is logged") == [believed]
        assert ("strict-transport-security" in answer.headers) is (believed == "203.0.113.9")


def test_what_is_no_address_is_not_logged(serve: Run, database_url: str) -> None:
    make_key(database_url, "clinic", "claims:read")
    with serve(TRUSTED_PROXIES="127.0.0.1") as service:
        service.http.get("/claims", headers={"X-Forwarded-For": "SENTINEL-77", **bearing("cpk_x")})
        assert wait_until(lambda: peers(service), "it is logged") == ["unknown"]
        assert "SENTINEL-77" not in service.log.read_text()


@contextmanager
def certified(folder: Path) -> Iterator[tuple[dict[str, str], trustme.CA]]:
    """TLS settings with a certificate of an authority of our own."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    yield {"SSL_CERTFILE": str(folder / "cert.pem"), "SSL_KEYFILE": str(folder / "key.pem")}, authority


def test_the_service_itself_can_speak_tls(database_url: str, redis_url: str, tmp_path: Path) -> None:
    with certified(tmp_path) as (settings, authority):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        with secure(tmp_path, {**urls, **settings}, context) as service:
            answer = service.http.post("/claims", json=[line()])
            assert answer.status_code == 201
            assert answer.headers["strict-transport-security"].startswith("max-age=")
            big = service.http.post("/claims", content=b" " * 17_000_000, headers={"Content-Type": "application/json"})
            assert big.status_code == 413
        mutual = {**urls, **settings, "SSL_CA_CERTS": str(tmp_path / "ca.pem")}
        authority.issue_cert("clinic.example.org").configure_cert(context)
        with secure(tmp_path, mutual, context) as service:
            assert service.http.get("/hello").status_code == 200
            stranger = ssl.create_default_context()
            authority.configure_trust(stranger)
            with pytest.raises(httpx2.TransportError):
                httpx2.get(f"{service.url}/hello", verify=stranger)


@contextmanager
def secure(folder: Path, settings: dict[str, str], context: ssl.SSLContext) -> Iterator[Service]:
    """A web service that is asked over TLS."""
    service = Service(folder, settings)
    service.url = service.url.replace("http:", "https:")
    service.http.close()
    service.http = httpx2.Client(base_url=service.url, timeout=20, verify=context)
    try:
        service.await_ready()
        yield service
    finally:
        service.close()
