"""Whoever goes the short way is answered as FastAPI's own way answers, to the header."""

import re

import httpx2

from project.engines.places import DATABASE, Places
from project.tests.conftest import Run, new_database
from project.tests.service import Service, free_port, line

# FastAPI's spans are what the short way leaves out; so a service with a collector, be it away, goes the other.
TRACED = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
DASHBOARDS = {"TOP_PROVIDER_RATE_LIMIT": "2/hour"}
JSON = {"Content-Type": "application/json"}
CLAIM = b"[" + httpx2.Request("POST", "http://x", json=line()).content + b"]"
CSV = b"service_dttm,submitted_proc\n2018-03-28,D0180\n"

REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "a claim": ("POST", "/claims", JSON, CLAIM),
    "a claim with a query": ("POST", "/claims?a=b", JSON, CLAIM),
    "as little as possible": ("POST", "/claims", JSON | {"Prefer": "return=minimal"}, CLAIM),
    "with a key": ("POST", "/claims", JSON | {"Idempotency-Key": "short"}, CLAIM),
    "with the key again": ("POST", "/claims", JSON | {"Idempotency-Key": "short"}, CLAIM),
    "with the key of another body": ("POST", "/claims", JSON | {"Idempotency-Key": "short"}, b" " + CLAIM),
    "with a bad key": ("POST", "/claims", JSON | {"Idempotency-Key": ""}, CLAIM),
    "faults": ("POST", "/claims", {"Content-Type": "text/csv"}, CSV),
    "not JSON": ("POST", "/claims", JSON, b"["),
    "nothing": ("POST", "/claims", JSON, b""),
    "another type": ("POST", "/claims", {"Content-Type": "application/xml"}, b"<a/>"),
    "another encoding": ("POST", "/claims", JSON | {"Content-Encoding": "br"}, CLAIM),
    "not gzip": ("POST", "/claims", JSON | {"Content-Encoding": "gzip"}, CLAIM),
    "a strange Host": ("POST", "/claims", JSON | {"Host": "example.org"}, CLAIM),
    "the best": ("GET", "/top-provider", {}, b""),
    "the best with a query": ("GET", "/top-provider?limit=1", {}, b""),
    "once too often": ("GET", "/top-provider", {}, b""),
    "a bad query": ("GET", "/top-provider?limit=0", {}, b""),
    "only the head": ("HEAD", "/top-provider", {}, b""),
    "another method": ("PUT", "/claims", JSON, CLAIM),
}

# What is made anew for each request.
OURS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z|(?<=t=)\d+"
)
PASSING = {"date", "x-request-id", "traceparent", "retry-after"}

Shown = tuple[int, dict[str, str], str]


def shown(service: Service, method: str, target: str, headers: dict[str, str], body: bytes) -> Shown:
    """What is answered, without what is made anew for each request."""
    answer = service.http.request(method, target, headers=headers, content=body)
    told = {name: OURS.sub("*", value) for name, value in answer.headers.items() if name not in PASSING}
    return answer.status_code, told, OURS.sub("*", answer.text)


def test_it_answers_as_the_long_way_does(serve: Run, template: Places, shared_redis_url: str) -> None:
    with new_database(template, DATABASE) as elsewhere:
        apart = {"DATABASE_URL": elsewhere, "REDIS_URL": shared_redis_url}
        with serve(**DASHBOARDS) as short, serve(**DASHBOARDS, **TRACED, **apart) as long:
            answers = {name: (shown(short, *asked), shown(long, *asked)) for name, asked in REQUESTS.items()}
    assert {name: one for name, (one, other) in answers.items() if one != other} == {}
    assert {one[0] for one, _ in answers.values()} == {201, 200, 400, 403, 405, 415, 422, 429}
