"""The audit of `make check` against a real HTTP service that speaks OSV's API, against none, and against the public ones.

Each run gets an empty environment, as `make check` has to do with whatever a machine has.
"""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from project.tests.service import ROOT, free_port, serving

HASH = f"--hash=sha256:{'0' * 64}"
# What this machine would not install is pinned too, so it is audited too.
OLD = f'jinja2==2.10 ; sys_platform == "none" \\\n    {HASH}\n    # via us\n'
SOUND = f"structlog==26.1.0 \\\n    {HASH}\n"
ESCAPE = "GHSA-462w-v97r-4m45"


def advisory(package: str, name: str, alias: str, fixed: str) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]
    affected = [{"package": {"name": package, "ecosystem": "PyPI"}, "ranges": ranges}]
    return {"id": name, "aliases": [alias], "summary": "known", "affected": affected}


ADVISORIES = {
    ("django", "1.8"): advisory("django", "GHSA-h582-2pch-3xv3", "CVE-2015-3982", "1.8.2"),
    ("jinja2", "2.10"): advisory("jinja2", ESCAPE, "CVE-2019-10906", "2.10.1"),
}


@contextmanager
def advisory_service(advisories: dict[tuple[str, str], dict[str, Any]], silent_s: float = 0) -> Iterator[str]:
    """A service of the form of OSV's that knows `advisories`, and is silent for so long before each answer."""
    over = threading.Event()

    class Query(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            over.wait(silent_s)
            known = advisories.get((asked["package"]["name"], asked["version"]))
            body = json.dumps({"vulns": [known]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """Nothing: it would stand between the tests' own lines."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Query)
    with serving(server):
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            over.set()


@contextmanager
def company_network(certificates: Path) -> Iterator[str]:
    """A proxy that opens TLS on its way, as companies have them, and stands for PyPI: its certificate is of its own making."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(certificates))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("pypi.org").configure_cert(tls)

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            with tls.wrap_socket(self.connection, server_side=True) as inside, inside.makefile("rb") as lines:
                while request := lines.readline():
                    while lines.readline().strip():
                        """The headers ask nothing of us."""
                    _, _, package, version, _ = request.split()[1].decode().split("/")
                    known = ADVISORIES.get((package, version))
                    found = [{"id": known["id"], "aliases": known["aliases"], "fixed_in": ["2.10.1"]}] if known else []
                    body = json.dumps({"vulnerabilities": found}).encode()
                    inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self.close_connection = True

        def log_request(self, *_: object) -> None:
            """Nothing: it would stand between the tests' own lines."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def audit(folder: Path, requirements: str, *options: str, **environment: str) -> tuple[int, str]:
    file = folder / "requirements.txt"
    file.write_text(requirements)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py", file, *options],
        env={"PATH": os.defpath, "HOME": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_known_vulnerability_fails_and_pypi_is_asked_by_the_proxy_and_the_certificates_of_pip(tmp_path: Path) -> None:
    with company_network(tmp_path / "company.pem") as proxy:
        (tmp_path / "pip.conf").write_text(f"[global]\nproxy = {proxy}\ncert = {tmp_path / 'company.pem'}\n")
        code, said = audit(tmp_path, SOUND + OLD, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert code == 1
    assert f"jinja2 2.10: CVE-2019-10906 = {ESCAPE}, fixed in 2.10.1" in said
    assert "1 known vulnerabilities" in said


def test_an_accepted_vulnerability_passes_and_a_needless_acceptance_is_named(tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.toml"
    accepted.write_text('"CVE-2019-10906" = "no template of ours is written by others"\n"CVE-2000-0001" = "gone"\n')
    with advisory_service(ADVISORIES) as url:
        code, said = audit(tmp_path, SOUND + OLD, f"--osv-url={url}", f"--accepted={accepted}")
    assert code == 0
    assert "audit passed: 2 pinned packages" in said
    assert "CVE-2000-0001 is accepted but no longer found" in said


def test_an_acceptance_needs_a_reason(tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.toml"
    accepted.write_text('"CVE-2019-10906" = " "\n')
    code, said = audit(tmp_path, SOUND, f"--accepted={accepted}")
    assert (code, said) == (1, "audit failed: accepted.toml gives no reason for CVE-2019-10906\n")


def test_without_a_network_the_audit_is_skipped_in_one_clear_line(tmp_path: Path) -> None:
    code, said = audit(tmp_path, SOUND, HTTPS_PROXY=f"http://user:hunter@127.0.0.1:{free_port()}")
    assert code == 0
    assert said.startswith("audit skipped: no advisory service can be reached (PyPI: ")
    assert said.count("\n") == 1
    assert "hunter" not in said


def test_a_mirror_without_advisories_is_no_clean_bill(tmp_path: Path) -> None:
    with advisory_service({}) as url:
        code, said = audit(tmp_path, OLD, f"--osv-url={url}")
    assert (code, said) == (
        0,
        "audit skipped: no advisory service can be reached (OSV: serves no advisories)\n",
    )


def test_a_network_that_hangs_does_not_hang_the_check(tmp_path: Path) -> None:
    with advisory_service(ADVISORIES, silent_s=60) as url:
        start = time.monotonic()
        code, said = audit(tmp_path, OLD, f"--osv-url={url}", "--seconds=1")
        assert time.monotonic() - start < 30
    assert code == 0
    assert said.startswith("audit skipped: no advisory service can be reached (OSV: no answer within ")


def test_a_requirement_without_a_hash_fails_even_without_a_network(tmp_path: Path) -> None:
    code, said = audit(tmp_path, "jinja2==2.10\n", f"--osv-url=http://127.0.0.1:{free_port()}")
    assert code == 1
    assert "audit failed: the requirements cannot be audited" in said
    assert "does not contain a hash" in said


def test_the_public_services_know_an_old_release(tmp_path: Path) -> None:
    code, said = audit(tmp_path, OLD, "--seconds=20", **os.environ)
    if "audit skipped" in said:
        pytest.skip(said)
    assert code == 1
    assert ESCAPE in said
