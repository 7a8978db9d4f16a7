"""A real Prometheus with the shipped configuration, and somebody who takes its alerts. Used by tests of what is watched.

Changed is only what depends on where it runs: targets by address where compose has names, the key's file, the port.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import yaml

from project.tests.service import Daemon, free_port, serving, wait_until
from project.tests.watching import PROMETHEUS, read


class Prometheus(Daemon):
    """Prometheus over these addresses of web containers and workers, with an API key that may read metrics."""

    def __init__(self, folder: Path, web: Sequence[str], workers: Sequence[str], key: str) -> None:
        port = free_port()
        self.key = key
        self.etc = folder / "etc"
        shutil.copytree(PROMETHEUS, self.etc)
        (folder / "metrics_key").write_text(key + "\n")
        targets = {"web": list(web), "worker": list(workers), "prometheus": [f"http://127.0.0.1:{port}"]}
        (self.etc / "prometheus.yml").write_text(yaml.safe_dump(configuration(targets, folder / "metrics_key")))
        argv = [
            "prometheus",
            f"--config.file={self.etc / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__(folder, argv, f"http://127.0.0.1:{port}", "/-/ready", {})

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query: their `metric` and `value`."""
        answer = self.http.post("/api/v1/query", data={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of the one sample of a query; None when there is none."""
        samples = self.query(expression)
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire now, by name."""
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {one["labels"]["alertname"]: one for one in alerts if one["state"] == "firing"}

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, and how that went."""
        found: list[dict[str, Any]] = self.http.get("/api/v1/targets").json()["data"]["activeTargets"]
        return found

    def await_scrapes(self) -> None:
        """Waits until every target was scraped without an error."""
        wait_until(
            lambda: self.targets() and all(one["health"] == "up" for one in self.targets()), "everything is scraped"
        )

    def failing_rules(self) -> list[str]:
        """The rules that could not be evaluated, and why."""
        groups = self.http.get("/api/v1/rules").json()["data"]["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}" for one in groups for rule in one["rules"] if rule.get("lastError")
        ]


def configuration(urls: dict[str, list[str]], key: Path) -> dict[str, Any]:
    """The shipped configuration, with these targets and this key."""
    shipped: dict[str, Any] = read(PROMETHEUS / "prometheus.yml")
    for job in shipped["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [url.removeprefix("http://") for url in urls[job["job_name"]]]}]
        if "authorization" in job:
            job["authorization"] = {"credentials_file": str(key)}
    return shipped


class Receiver(HTTPServer):
    """Stands where Alertmanager would, and keeps what it was sent."""

    def __init__(self) -> None:
        self.alerts: dict[str, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", 0), _Take)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"


class _Take(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Takes alerts as Alertmanager's API v2 does."""
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/v2/alerts":
            self.server.alerts |= {one["labels"]["alertname"]: one for one in sent}
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver of alerts that listens."""
    receiver = Receiver()
    with serving(receiver):
        yield receiver


@contextmanager
def watching(folder: Path, web: Sequence[str], workers: Sequence[str], key: str) -> Iterator[Prometheus]:
    """A Prometheus that has scraped everything; stopped at the end."""
    prometheus = Prometheus(folder, web, workers, key)
    try:
        prometheus.await_ready()
        prometheus.await_scrapes()
        yield prometheus
    finally:
        prometheus.close()
