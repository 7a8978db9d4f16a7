"""Hundreds of bodies that must be refused, over real HTTP: what each is answered, how soon, and that no trace is left.

The table is `claims/hostile`; it is sent once, and the tests look at what came of it.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from project.tests.claims.hostile import GOOD, MARK, all_of_them
from project.tests.conftest import Run
from project.tests.service import Service, line
from project.tests.test_protocol import exchange

WITHIN_S = 5.0


class Refusal(NamedTuple):
    """What a hostile body was answered."""

    name: str
    expected: frozenset[int]
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Sent(NamedTuple):
    """The service, the answers to the whole table, and what was in the database before and after (`marked`: of them)."""

    service: Service
    refusals: list[Refusal]
    before: dict[str, int]
    after: dict[str, int]
    marked: dict[str, int]
    distinct: int


def rows(database_url: str, marked: str = "") -> dict[str, int]:
    """How many rows each table of the database has, or how many that hold a marked text."""

    async def count() -> dict[str, int]:
        connection = await asyncpg.connect(database_url)
        try:
            tables = await connection.fetch(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
            )
            query = "SELECT count(*) FROM {} AS r WHERE r::text LIKE '%' || $1 || '%'"
            return {name: await connection.fetchval(query.format(name), marked) for (name,) in tables}
        finally:
            await connection.close()

    return asyncio.run(count())  # fmt: skip


def send_all(service: Service) -> tuple[list[Refusal], int]:
    """The answer to each body, and how many bodies differ."""
    refusals, prints = [], set()
    for hostile in all_of_them():
        prints.add(hashlib.sha256(repr(hostile.headers).encode() + hostile.body).digest())
        headers = [(name.encode(), value.encode("latin-1")) for name, value in hostile.headers]
        started = time.monotonic()
        answer = service.http.post("/claims", content=hostile.body, headers=headers)
        seconds = time.monotonic() - started
        told = dict(answer.headers.items())
        refusals.append(Refusal(hostile.name, hostile.statuses, answer.status_code, told, answer.content, seconds))
    return refusals, len(prints)


@pytest.fixture(scope="module")
def sent(service: Service) -> Sent:
    """The whole table, sent."""
    before = rows(service.database_url)
    refusals, distinct = send_all(service)
    after, marked = rows(service.database_url), rows(service.database_url, MARK)
    return Sent(service, refusals, before, after, marked, distinct)


def faults_of(refusal: Refusal) -> Iterator[str]:
    """What is wrong with an answer, if anything is."""
    if refusal.status not in refusal.expected:
        yield f"status {refusal.status}, not {sorted(refusal.expected)}"
    if refusal.headers.get("content-type") != "application/problem+json":
        yield f"media type {refusal.headers.get('content-type')}"
        return
    problem = json.loads(refusal.body)
    if not (problem["type"] and problem["title"] and problem["status"] == refusal.status):
        yield "not well formed"
    if refusal.status == 422 and not (problem["errors"] and all(map(is_fault, problem["errors"]))):
        yield "no line and field is named"
    if refusal.seconds > WITHIN_S:
        yield f"{refusal.seconds} seconds"


def is_fault(fault: dict[str, Any]) -> bool:
    """Whether it names a line, or the claim as a whole, and a field, a rule and what is expected."""
    return (fault["line"] is None or fault["line"] >= 1) and bool(fault["field"] and fault["rule"] and fault["detail"])


def test_every_hostile_body_is_refused_with_a_problem_that_says_why(sent: Sent) -> None:
    assert sent.distinct == len(sent.refusals) >= 200
    faulty = {refusal.name: found for refusal in sent.refusals if (found := list(faults_of(refusal)))}
    assert faulty == {}


def test_no_answer_and_no_log_line_repeats_what_was_sent(sent: Sent) -> None:
    assert [refusal.name for refusal in sent.refusals if MARK.encode() in refusal.body] == []
    assert MARK not in str([refusal.headers for refusal in sent.refusals])
    log = sent.service.log.read_text()
    assert log.count('"event":"request"') >= len(sent.refusals)
    assert MARK not in log
    assert MARK not in sent.service.http.get("/metrics").text


def test_nothing_of_a_refused_body_is_stored(sent: Sent) -> None:
    assert sent.before == sent.after
    assert sum(sent.after.values()) == sent.after["alembic_version"] == 1
    assert set(sent.marked.values()) == {0}


def test_none_of_it_was_a_surprise(sent: Sent) -> None:
    log = sent.service.log.read_text()
    assert "Traceback" not in log
    assert "request_failed" not in log


def test_the_process_has_not_grown_beyond_a_few_bodies(sent: Sent) -> None:
    status = Path(f"/proc/{sent.service.process.pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells the peak of another process")
    [peak] = re.findall(r"VmHWM:\s+([0-9]+) kB", status.read_text())
    assert int(peak) < 500 * 1024


def test_a_good_claim_is_taken_at_once_afterwards(sent: Sent) -> None:
    started = time.monotonic()
    claim = sent.service.accepted([line(subscriber_id=MARK)])
    assert time.monotonic() - started < 1.0
    assert sent.service.http.get(f"/claims/{claim['id']}").json()["lines"] == claim["lines"]


POST = b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD_BODY = f"[{GOOD}]".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


FRAMING: tuple[tuple[bytes, set[int]], ...] = (
    (POST + b"Content-Length: 900\r\n\r\n" + GOOD_BODY, {408}),
    (POST + b"Content-Length: 1\r\n\r\n", {408}),
    (POST + b"Content-Length: 1\r\nConnection: close\r\n\r\n" + GOOD_BODY, {400}),
    (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", {400, 413}),
    (POST + b"Content-Length: 0x10\r\n\r\n" + GOOD_BODY, {400}),
    (POST + b"Content-Length: 5, 5\r\n\r\n" + GOOD_BODY, {400}),
    (POST + b"Content-Length: +5\r\n\r\n" + GOOD_BODY, {400}),
    (POST + b"Content-Length: \xd9\xa5\r\n\r\n" + GOOD_BODY, {400}),
    (POST + b"Connection: close\r\n\r\n" + GOOD_BODY, {400}),
    (CHUNKED + b"\r\n5\r\n[", {408}),
    (CHUNKED + b"\r\n", {408}),
    (CHUNKED + b"\r\n-1\r\n[", {400}),
    (CHUNKED + b"\r\nffffffffffffffffff\r\n[", {400}),
    (CHUNKED + b"\r\n1\r\n[1\r\n0\r\n\r\n", {400}),
    (CHUNKED + b"Connection: close\r\n\r\n0\r\n\r\n", {400}),
    (CHUNKED + b"Connection: close\r\n\r\n1;" + b"x" * 3000 + b"\r\n[\r\n0\r\n\r\n", {400}),
    (CHUNKED + b"Connection: close\r\n\r\n" + b"1\r\n[\r\n" * 60_000 + b"0\r\n\r\n", {400}),
    (CHUNKED + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n", {400}),
    (POST + b"Transfer-Encoding: gzip\r\nConnection: close\r\n\r\n" + GOOD_BODY, {400, 408, 501}),
    (POST + b"Transfer-Encoding: chunked, identity\r\nConnection: close\r\n\r\n" + GOOD_BODY, {400, 501}),
    (POST + b"Expect: 200-ok\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]", {417, 422}),
    (POST.replace(b"1.1", b"1.0") + b"\r\n", {400}),
)  # fmt: skip


def test_a_body_whose_framing_lies_is_refused_in_time(serve: Run, database_url: str) -> None:
    with serve(BODY_TIMEOUT_S="0.5") as service:
        for request, statuses in FRAMING:
            started = time.monotonic()
            status, headers, body = exchange(service, request)
            refusal = Refusal(repr(request), frozenset(statuses), status, headers, body, time.monotonic() - started)
            assert list(faults_of(refusal)) == [], refusal
            assert MARK.encode() not in body
        assert MARK not in service.log.read_text()
        assert "Traceback" not in service.log.read_text()
    assert rows(database_url)["claim"] == 0
