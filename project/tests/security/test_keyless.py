"""Without any key only this machine's own user is served, on every path; and nobody else can be meant to be."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from project.security import keyless
from project.tests.conftest import Run
from project.tests.keys import bearing, make_key
from project.tests.service import ROOT, Service, environment, free_port, line, running, wait_until

PATHS = ("/claims", "/hello", "/livez", "/docs", "/openapi.json", "/docs-assets/swagger-ui.css", "/nowhere")
LOCAL = "127.0.0.1"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:80"])
def test_a_local_name_is_served(service: Service, host: str) -> None:
    assert service.http.get("/claims", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::2]", "2130706433",
     "127.1", "localhost@evil.example", "evil.example#localhost", "localhost:80:80", "localhost/", "", "[::1", "::1"],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_was_bound_anew_is_refused_on_every_path(service: Service, host: str, path: str) -> None:
    answer = service.http.get(path, headers={"Host": host})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.json()["type"] == "/problems/keyless"


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "x-forwarded-for", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded", "X-Forwarded-Port",
     "Forwarded", "X-Real-IP", "Via", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP", "X-Original-Forwarded-For"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["127.0.0.1", "203.0.113.9", ""])
def test_what_a_proxy_passes_on_is_refused(service: Service, header: str, value: str) -> None:
    assert service.http.get("/claims", headers={header: value}).json()["type"] == "/problems/keyless"
    assert service.http.get("/hello", headers={header: value}).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_a_page_from_elsewhere_cannot_post(service: Service, origin: str) -> None:
    answer = service.http.post("/claims", json=[line()], headers={"Origin": origin})
    assert answer.json()["type"] == "/problems/keyless"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8000", "https://[::1]"])
def test_a_page_from_this_machine_can(service: Service, origin: str) -> None:
    assert service.http.post("/claims", json=[line()], headers={"Origin": origin}).status_code == 201


@pytest.mark.parametrize(
    ("peer", "served"),
    [("127.0.0.1", True), ("127.255.0.3", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
     ("::ffff:10.0.0.1", False), ("203.0.113.9", False), ("unix", False), ("", False), (None, False)],
)  # fmt: skip
def test_only_loopback_peers_are_served(peer: str | None, served: bool) -> None:
    assert (keyless.refusal(peer, [(b"host", b"localhost")]) is None) is served


def test_two_hosts_and_none_are_refused() -> None:
    assert keyless.refusal(LOCAL, []) is not None
    assert keyless.refusal(LOCAL, [(b"host", b"localhost"), (b"host", b"localhost")]) is not None


def test_with_a_key_any_host_and_any_forwarding_header_will_do(serve: Run, database_url: str) -> None:
    key = make_key(database_url, "clinic", "claims:read")["key"]
    with serve() as service:
        sent = {"Host": "claims.example.org", "X-Forwarded-For": "203.0.113.9", "Origin": "https://x.example"}
        assert service.http.get("/claims", headers={**sent, **bearing(key)}).status_code == 200
        assert service.http.get("/hello", headers=sent).status_code == 200


def start(folder: Path, module: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A process that must end by itself."""
    surroundings = environment(folder, PORT=str(free_port()), METRICS_PORT=str(free_port()), **changes)
    argv = [sys.executable, "-m", f"project.{module}"]
    return subprocess.run(argv, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["web", "worker"])
@pytest.mark.parametrize(
    "exposure", [{"HOST": "0.0.0.0"}, {"HOST": "::"}, {"HOST": "192.0.2.1"}, {"TRUSTED_PROXIES": "127.0.0.1"}]
)
def test_without_a_key_it_does_not_start_where_others_could_reach_it(
    database_url: str, tmp_path: Path, module: str, exposure: dict[str, str]
) -> None:
    ended = start(tmp_path, module, DATABASE_URL=database_url, **exposure)
    assert ended.returncode == 1
    [last] = [row for row in ended.stderr.splitlines() if row.startswith("claim_process:")]
    assert next(iter(exposure)) in last
    assert "python -m project keys create" in last


def test_with_a_key_it_serves_other_machines_too(database_url: str, redis_url: str, tmp_path: Path) -> None:
    key = make_key(database_url, "clinic", "claims:read")["key"]
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HOST": "0.0.0.0"}
    address = own_address()
    with running(tmp_path, urls) as service:
        url = service.url.replace(LOCAL, address)
        assert httpx2.get(f"{url}/claims", headers=bearing(key)).status_code == 200
        assert httpx2.get(f"{url}/claims").status_code == 401


def own_address() -> str:
    """An address of this machine that is not loopback, or, on one without a network, loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return LOCAL
        address: str = probe.getsockname()[0]
        return address


def test_an_exposed_start_waits_for_the_database_to_say_whether_there_is_a_key(
    database_url: str, empty_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """It is not migrated yet; then it is, without a key."""
    log = tmp_path / "log"
    surroundings = environment(tmp_path, DATABASE_URL=empty_database_url, REDIS_URL=redis_url, HOST="0.0.0.0")
    with log.open("wb") as output:
        web = subprocess.Popen(
            [sys.executable, "-m", "project.web"], env={**surroundings, "PORT": str(free_port())}, stderr=output
        )
        try:
            wait_until(lambda: "waiting_for_database" in log.read_text(), "it waits")
            assert web.poll() is None
            subprocess.run([sys.executable, "-m", "project.schema"], env=surroundings, cwd=ROOT, check=True)
            assert web.wait(30) == 1
        finally:
            web.kill()
            web.wait()
    assert "no API key was ever made" in log.read_text()
