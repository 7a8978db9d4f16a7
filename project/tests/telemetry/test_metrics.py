"""/metrics with several web processes: exact, and still there when one of them is killed."""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from project import settings
from project.app import create_app
from project.telemetry.metrics import ROUTES
from project.tests.conftest import Run
from project.tests.service import Service, line, wait_until


def samples(service: Service) -> dict[str, float]:
    """All samples of /metrics by name and labels."""
    answer = httpx2.get(f"{service.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    rows = (row.rsplit(" ", 1) for row in answer.text.splitlines() if not row.startswith("#"))
    return {name: float(value) for name, value in rows}


def workers(service: Service) -> set[int]:
    """The processes that serve: children of uvicorn's parent that have said so."""
    return {int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", service.log.read_text())}


def post_many(service: Service, count: int) -> None:
    """Claims over fresh connections, so that all processes get some."""

    def post(_: int) -> int:
        return service.submit([line(), line()], Connection="close").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(count))) == {201}


def test_counts_are_exact_over_four_processes(serve: Run) -> None:
    with serve(WEB_WORKERS="4") as service:
        wait_until(lambda: len(workers(service)) == 4, "four processes serve")
        post_many(service, 200)
        service.submit([line(provider_npi="1", provider_fees=-1), line(provider_npi="2")])
        service.submit([line(provider_npi="1")])
        service.http.get("/claims/not-an-id")
        seen = samples(service)
        assert seen["claims_accepted_total"] == 200
        assert seen["claim_lines_accepted_total"] == 400
        assert seen['claims_refused_total{rule="npi"}'] == 2
        assert seen['claims_refused_total{rule="minimum"}'] == 1
        assert seen['http_requests_total{method="POST",route="/claims",status="201"}'] == 200
        assert seen['http_requests_total{method="POST",route="/claims",status="422"}'] == 2
        assert seen['http_requests_total{method="GET",route="/claims/{claim_id}",status="422"}'] == 1
        assert seen['http_request_duration_seconds_count{method="POST",route="/claims"}'] == 202
        assert seen["ledger_batch_claims_sum"] == 200
        assert 1 <= seen["ledger_commit_seconds_count"] <= 200
        assert seen["ledger_queue_claims"] == 0
        assert seen["database_pool_size"] == 4 * 8
        assert len(list(_metric_files(service))) >= 4 * 3


def _metric_files(service: Service) -> list[Path]:
    return list((service.log.parent / "run" / "metrics").glob("*.db"))


def test_it_stays_readable_and_exact_when_a_process_is_killed(serve: Run) -> None:
    with serve(WEB_WORKERS="4") as service:
        wait_until(lambda: len(workers(service)) == 4, "four processes serve")
        post_many(service, 40)
        victim = sorted(workers(service))[0]
        os.kill(victim, signal.SIGKILL)
        (service.log.parent / "run" / "metrics" / f"counter_{victim}.db").touch()
        (service.log.parent / "run" / "metrics" / "histogram_4194304.db").touch()  # as a kill at the start leaves it
        # uvicorn may be asking the victim for a sign of life just then, and waits WORKER_SILENCE_S for it
        wait_until(lambda: len(workers(service)) == 5, "another process has taken its place", within_s=60)
        post_many(service, 10)
        seen = samples(service)
        assert seen["claims_accepted_total"] == 50
        assert seen["database_pool_size"] == 4 * 8


def test_every_route_that_is_served_has_series_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    routes = [context.original_route for context in iter_route_contexts(create_app(settings.load()).routes)]
    served = {(method, one.path) for one in routes if isinstance(one, APIRoute) for method in one.methods or ()}
    assert served == ROUTES


def test_whatever_is_not_served_makes_one_series(service: Service) -> None:
    for method in ("GET", "PUT", "DELETE", "PROPFIND"):
        for path in ("/claims", "/claims/1/events", "/nowhere"):
            service.http.request(method, path)
    kinds = {re.sub(r',status="\d+"', "", name) for name in samples(service) if name.startswith("http_requests_total")}
    served = {f'http_requests_total{{method="{method}",route="{route}"}}' for method, route in ROUTES}
    assert kinds - served == {'http_requests_total{method="OTHER",route="unmatched"}'}


def test_what_alert_rules_look_at_is_there_before_it_happens(serve: Run) -> None:
    with serve() as service:
        seen = samples(service)
    for name in (
        'http_requests_total{method="POST",route="/claims",status="500"}',
        'ledger_failures_total{reason="lost_commit"}',
        'ranking_cache_total{result="error"}',
        "requests_shed_total",
        "limiter_degraded_total",
    ):
        assert seen[name] == 0
    # The service was asked whether it is ready from its start on, so this may have happened.
    assert 'http_requests_total{method="GET",route="/readyz",status="503"}' in seen


def test_no_label_takes_a_value_from_input(service: Service) -> None:
    service.http.get("/marked-path-4711")
    service.http.get("/claims/marked-id-4711")
    service.http.request("PROPFIND", "/claims")
    service.submit([line(**{"marked-column": 1})])
    page = service.http.get("/metrics").text
    assert "marked" not in page
    assert "PROPFIND" not in page
    assert 'method="OTHER"' in page
    assert 'route="unmatched"' in page


def test_a_new_start_counts_from_zero(serve: Run, tmp_path: Path) -> None:
    with serve() as service:
        post_many(service, 3)
    with serve() as service:
        assert samples(service)["claims_accepted_total"] == 0
