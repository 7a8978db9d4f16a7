"""One trace from the POST through the payment to the event, seen by a collector; and none of it where it is off."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from project.tests.collector import Collector, Seen, collecting
from project.tests.conftest import Run
from project.tests.gate import Gate
from project.tests.saga import Saga
from project.tests.service import Service, environment, free_port, line, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # pragma: allowlist secret
CLIENTS = f"00-{TRACE}-{SPAN}-01"
MARK = "MRKD77314711"
SERVER, CLIENT, PRODUCER = 2, 3, 4  # of OTLP's SpanKind
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # ms; by default spans leave each five seconds


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


def published(redis_url: str, claim_id: str) -> list[dict[str, Any]]:
    """The claim's events on the stream so far."""
    with redis.Redis.from_url(redis_url) as client:
        events = [json.loads(fields[b"event"]) for _, fields in client.xrange("claim-events")]
    return [event for event in events if event["subject"] == claim_id]


def await_events(redis_url: str, claim_id: str, count: int) -> list[dict[str, Any]]:
    """The claim's first events, once so many are published."""
    wait_until(lambda: len(published(redis_url, claim_id)) == count, f"{count} events are published")
    return published(redis_url, claim_id)


def traceparent_of(span: Seen) -> str:
    return f"00-{span.trace_id}-{span.span_id}-01"


def test_one_trace_leads_from_the_post_to_the_event(
    saga: Saga, serve: Run, redis_url: str, collector: Collector
) -> None:
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **QUICKLY}
    with Gate(saga.payments.url).open() as gate, serve(**traced) as service:
        saga.worker(PAYMENTS_URL=gate.url, **traced)
        claim = service.submit([line(), line()], traceparent=CLIENTS)
        claim_id = claim.json()["id"]
        accepted, paid = await_events(redis_url, claim_id, 2)

        post = collector.await_span("POST /claims", TRACE)
        assert (post.kind, post.parent_id, post.service) == (SERVER, SPAN, "claim_process-web")
        assert post.attributes["http.route"] == "/claims"
        assert post.attributes["http.response.status_code"] == 201
        assert claim.headers["traceparent"] == traceparent_of(post)
        stored = collector.await_span("store claim", TRACE)
        assert (stored.parent_id, stored.attributes["claim.id"]) == (post.span_id, claim_id)
        assert stored.attributes["claim.lines"] == 2

        call = collector.await_span("payments pay", TRACE)
        assert (call.kind, call.parent_id, call.service) == (CLIENT, post.span_id, "claim_process-worker")
        assert (call.attributes["claim.id"], call.attributes["claim.result"]) == (claim_id, "paid")
        assert dict(zip(gate.calls, gate.traceparents, strict=True))["/payments"] == traceparent_of(call)

        for event in (accepted, paid):
            told = collector.await_span(f"publish {event['type']}", TRACE)
            assert (told.kind, told.parent_id) == (PRODUCER, post.span_id)
            assert event["traceparent"] == traceparent_of(told)
        assert not any(seen.failed for seen in collector.spans(TRACE))
        assert collector.paths == {"/v1/traces"}


def test_a_reversal_and_a_redrive_are_told_too(saga: Saga, serve: Run, redis_url: str, collector: Collector) -> None:
    traced = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", **QUICKLY}
    saga.payments.behave(refuse_rate=1)
    saga.worker(**traced)
    with serve(**traced) as service:
        claim_id = service.accepted([line()], traceparent=CLIENTS)["id"]
        *_, last = await_events(redis_url, claim_id, 3)
        assert last["type"] == "claim.reversed"
        assert last["traceparent"] == traceparent_of(collector.await_span("publish claim.reversed", TRACE))
        post = collector.await_span("POST /claims", TRACE)
        assert collector.await_span("payments cancel", TRACE).parent_id == post.span_id

        saga.payments.behave()
        letter = service.http.get(f"/claims/{claim_id}").json()["dead_letter"]
        other = TRACE[::-1]
        assert service.http.post(f"{letter}/redrive", headers={"traceparent": f"00-{other}-{SPAN}-01"}).is_success
        *_, paid = await_events(redis_url, claim_id, 5)
        assert (paid["type"], paid["traceparent"][3:35]) == ("claim.paid", other)
        assert collector.await_span("payments pay", other).attributes["claim.result"] == "paid"


def test_no_span_holds_what_a_client_sent(serve: Run, collector: Collector) -> None:
    with serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **QUICKLY) as service:
        http = service.http
        http.post("/claims", json=[line(subscriber_id=MARK)], headers={"Idempotency-Key": MARK, "X-Request-ID": MARK})
        http.post("/claims", json=[line(subscriber_id=MARK, provider_npi="1")])
        for path in (f"/{MARK}", f"/claims/{MARK}", f"/claims?claim_number={MARK}", f"/claims?{MARK}=1"):
            http.get(path, headers={"User-Agent": MARK, "Referer": MARK})
        http.get("/hello", headers={"Host": f"{MARK}.localhost"})
        http.request(f"X{MARK}", "/claims")
        for state in ("tracestate", "baggage"):
            http.get("/hello", headers={"traceparent": CLIENTS, state: f"a={MARK}"})
        http.get("/hello", headers={"traceparent": f"00-{MARK}-{MARK}-01"})
        http.get("/docs", headers={"traceparent": CLIENTS})
        collector.await_span("GET /docs", TRACE)
        names = {seen.name for seen in collector.spans()}
        assert {"POST /claims", "GET /claims", "GET /claims/{claim_id}", "GET /hello", "GET"} <= names
        assert not [body for body in collector.raw if MARK.encode() in body]


def test_a_replays_span_names_the_claim_that_is_answered(serve: Run, collector: Collector) -> None:
    with serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **QUICKLY) as service:
        first = service.accepted([line()], Idempotency_Key="once")
        again = service.accepted([line()], Idempotency_Key="once", traceparent=CLIENTS)
        assert again["id"] == first["id"]
        assert collector.await_span("store claim", TRACE).attributes["claim.id"] == first["id"]


def test_probes_and_scrapes_make_no_spans(serve: Run, collector: Collector) -> None:
    with serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **QUICKLY) as service:
        for path in ("/livez", "/readyz", "/metrics"):
            service.http.get(path, headers={"traceparent": CLIENTS})
        service.http.get("/hello", headers={"traceparent": CLIENTS})
        collector.await_span("GET /hello", TRACE)
        assert {seen.name for seen in collector.spans()} == {"GET /hello"}


def test_without_a_collector_the_clients_trace_still_travels(saga: Saga, serve: Run, redis_url: str) -> None:
    saga.payments.behave(refuse_rate=1)
    with Gate(saga.payments.url).open() as gate, serve() as service:
        worker = saga.worker(PAYMENTS_URL=gate.url)
        answer = service.submit([line()], traceparent=CLIENTS)
        assert answer.headers["traceparent"] == CLIENTS
        events = await_events(redis_url, answer.json()["id"], 3)
        assert {event["traceparent"] for event in events} == {CLIENTS}
        assert set(gate.traceparents) == {CLIENTS}
        told = f'"trace_id":"{TRACE}"'
        wait_until(lambda: told in service.log.read_text(), "the request's line names the trace")
        wait_until(lambda: told in worker.log.read_text(), "the worker's line does, too")
        untraced = service.submit([line()])
        assert "traceparent" not in untraced.headers
        assert "traceparent" not in await_events(redis_url, untraced.json()["id"], 3)[0]


def test_two_traceparents_are_none(service: Service) -> None:
    answer = service.http.get("/hello", headers=[("traceparent", CLIENTS), ("traceparent", CLIENTS)])
    assert "traceparent" not in answer.headers


def test_without_a_collector_the_exporter_is_not_even_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from project.app import create_app; create_app(); print('project.telemetry.otlp' in sys.modules)"
    )
    argv = [sys.executable, "-c", program]
    for settings, loaded in (
        ({}, "False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, "False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, "False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "True"),
    ):
        done = subprocess.run(argv, env=environment(tmp_path, **settings), capture_output=True, text=True, check=True)
        assert done.stdout.split() == [loaded]


@pytest.mark.parametrize("command", ["web", "worker"])
def test_variables_that_contradict_each_other_are_refused_in_one_line(command: str, tmp_path: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "10"}
    argv = [sys.executable, "-m", "project", command]
    surroundings = environment(tmp_path, PORT=str(free_port()), METRICS_PORT=str(free_port()), **settings)
    done = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("claim_process: the OTEL_ variables contradict each other")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["web", "worker"])
def test_a_protocol_that_is_not_spoken_is_refused_at_start(command: str, tmp_path: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    argv = [sys.executable, "-m", "project", command]
    done = subprocess.run(argv, env=environment(tmp_path, **settings), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "claim_process: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"


@pytest.mark.parametrize("hangs", [False, True])
def test_a_collector_that_is_away_or_hangs_costs_no_request_and_no_time(
    serve: Run, collector: Collector, hangs: bool
) -> None:
    collector.answers.clear()
    endpoint = collector.url if hangs else f"http://127.0.0.1:{free_port()}"
    with serve(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **QUICKLY) as service:
        for _ in range(20):
            assert service.accepted([line()])["id"]
        if hangs:
            wait_until(lambda: collector.raw, "the collector has something")
        else:
            wait_until(lambda: "traces_not_exported" in service.log.read_text(), "it is told")
        started = time.monotonic()
        service.stop()
        assert time.monotonic() - started < 8
        told = service.log.read_text()
        assert "Traceback" not in told
        assert told.count("traces_not_exported") <= 1
        assert '"level":"error"' not in told


def test_the_end_of_a_collectors_absence_is_told_once(serve: Run) -> None:
    settings = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization:Bearer SECRETTOKEN", **QUICKLY}
    with collecting() as collector:
        collector.status = 500
        with serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_TIMEOUT="1", **settings) as service:
            service.accepted([line()])
            wait_until(lambda: "traces_not_exported" in service.log.read_text(), "it is told")
            collector.status = 200

            def told_again() -> bool:
                service.http.get("/hello")
                return "traces_exported_again" in service.log.read_text()

            wait_until(told_again, "its end is told")
            assert "SECRETTOKEN" not in service.log.read_text()


@pytest.mark.parametrize("module", ["project.web", "project.worker", "project.commands"])
def test_propagators_of_a_platform_keep_nobody_from_starting(module: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", f"import {module}"]
    subprocess.run(argv, env=environment(tmp_path, OTEL_PROPAGATORS="b3,nobodys"), check=True, timeout=30)
