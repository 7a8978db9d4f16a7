"""A real nginx with the configuration of nginx/, in front of web processes of ours. Used by the tests beside it.

Of the configuration only listen.conf, upstream.conf and operators.conf are a test's own, and the numbers that it names.
"""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx2

from project.tests.conftest import Run
from project.tests.keys import bearing, make_key
from project.tests.service import ROOT, Service, free_port, wait_until

CONFIGURATION = ROOT / "nginx"
NOBODY = "127.0.0.1:1"  # nothing listens there
# Debian has it where an ordinary user does not look.
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
OPERATOR = "127.0.0.9"  # loopback has many addresses, so tests can come from several
SCOPES = ("claims:write", "claims:read", "providers:read", "operate", "metrics:read")


class Nginx:
    """It runs; what it has said is below `folder`."""

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str],
        *,
        operators: str = "deny all;",
        tls: Path | None = None,
        numbers: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        prefix, configuration = folder / "prefix", folder / "conf"
        prefix.mkdir(parents=True)
        shutil.copytree(CONFIGURATION, configuration)
        listen = (CONFIGURATION / ("listen-tls.conf" if tls else "listen.conf")).read_text()
        listen = listen.replace("listen 8000", f"listen 127.0.0.1:{self.port}").replace("/run/secrets/tls", str(tls))
        (configuration / "listen.conf").write_text(listen)
        servers = [f"server {address} max_fails=0;\n" for address in addresses]
        (configuration / "upstream.conf").write_text("".join(servers))
        (configuration / "operators.conf").write_text(operators)
        for old, new in (numbers or {}).items():
            replace_in(configuration / "nginx.conf", old, new)
        as_whom = "user root;" if os.getuid() == 0 else ""  # the folders of tests are open to their owner alone
        self._argv = [PROGRAM, "-p", f"{prefix}/", "-e", "stderr", "-c", str(configuration / "nginx.conf")]
        self._argv += ["-g", f"daemon off; {as_whom}"]
        with (folder / "stdout").open("ab") as told, (folder / "stderr").open("ab") as failed:
            self.process = subprocess.Popen(self._argv, stdout=told, stderr=failed, start_new_session=True)

    def answers(self) -> bool:
        """Whether it does, with whatever status."""
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        try:
            httpx2.get(f"{self.url}/livez", verify=False)
        except httpx2.TransportError:
            return False
        return True

    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(row) for row in (self.folder / "stdout").read_text().splitlines()]

    def logged(self, **wanted: Any) -> list[dict[str, Any]]:
        """Its rows with these members, at least one: they come just after the answer."""

        def look() -> list[dict[str, Any]]:
            return [row for row in self.log() if wanted.items() <= row.items()]

        rows: list[dict[str, Any]] = wait_until(look, f"nginx logs {wanted}")
        return rows

    def client(self, key: str = "", address: str = "127.0.0.1", verify: ssl.SSLContext | bool = True) -> httpx2.Client:
        """Somebody at this address with this key, or without one."""
        transport = httpx2.HTTPTransport(local_address=address, verify=verify)
        return httpx2.Client(base_url=self.url, timeout=20, headers=bearing(key) if key else {}, transport=transport)

    @contextmanager
    def connected(self, timeout_s: float = 20) -> Iterator[socket.socket]:
        """A raw connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            yield connection

    def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to raw bytes: status, headers in small letters, body."""
        with self.connected() as connection:
            connection.sendall(request)
            return answer_on(connection)

    def close(self) -> None:
        """Ends it, as the container's stop does."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The next answer of a raw connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def replace_in(file: Path, old: str, new: str) -> None:
    """A text that must be there, changed."""
    content = file.read_text()
    assert old in content, f"{file.name} has no {old}"
    file.write_text(content.replace(old, new))


@contextmanager
def fronting(folder: Path, addresses: Sequence[str], **options: Any) -> Iterator[Nginx]:
    """nginx in front of these, ready; ended with the block."""
    started = Nginx(folder, addresses, **options)
    try:
        wait_until(started.answers, "nginx answers")
        yield started
    finally:
        started.close()


@dataclass(frozen=True)
class Pair:
    """Two web processes that trust the proxy, and a key that may do everything."""

    services: list[Service]
    key: str
    database_url: str

    @property
    def addresses(self) -> list[str]:
        """Where they listen."""
        return [address_of(service) for service in self.services]


def address_of(service: Service) -> str:
    """As nginx names it."""
    return service.url.removeprefix("http://")


@dataclass(frozen=True)
class Front:
    """nginx, and what stands behind it."""

    nginx: Nginx
    pair: Pair


@contextmanager
def two_serving(serve: Run, database_url: str, **settings: str) -> Iterator[Pair]:
    """That, on one database."""
    key = make_key(database_url, "clinic", *SCOPES)["key"]
    with ExitStack() as stack:
        services = [stack.enter_context(serve(TRUSTED_PROXIES="127.0.0.1", **settings)) for _ in range(2)]
        yield Pair(services, key, database_url)


def directive(name: str, file: str = "nginx.conf") -> str:
    """What a directive of the configuration says, which stands there once."""
    [value] = directives(name, file)
    return value


def directives(name: str, file: str = "nginx.conf") -> list[str]:
    """What it says wherever it stands, in order."""
    return re.findall(rf"^\s*{name}\s+([^;#]+);", (CONFIGURATION / file).read_text(), re.MULTILINE)
