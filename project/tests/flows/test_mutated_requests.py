"""Whatever a request is made of, the answer is 2xx, or a 4xx problem, and the books balance. `make soak`: for minutes."""

import asyncio
import json
import os
import time
from decimal import Decimal
from typing import Any

import asyncpg
import httpx2
from hypothesis import HealthCheck, given, settings

from project import audit
from project.tests.flows.mutations import Post, gets, posts
from project.tests.service import Service

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "700"))
WITHIN_S = 5.0
searching = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def assert_sound(answer: Any, seconds: float) -> None:
    """2xx or a well-formed 4xx problem (RFC 9457), in time."""
    assert seconds < WITHIN_S
    assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert problem["type"]
        assert problem["title"]


def asked(service: Service, method: str, target: str, body: bytes | None = None, **headers: str) -> Any:
    """The answer, which must be sound."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    started = time.monotonic()
    try:
        answer = service.http.request(method, target, content=body, headers=encoded)
    except httpx2.RemoteProtocolError:  # closed as idle just then; what the request itself breaks, it breaks again
        started = time.monotonic()
        answer = service.http.request(method, target, content=body, headers=encoded)
    assert_sound(answer, time.monotonic() - started)
    return answer


def stored(database_url: str) -> tuple[set[str], int, audit.Books, int]:
    """The claims in the database, how many lines they have, the books, and how many claims are torn."""

    async def read() -> tuple[set[str], int, audit.Books, int]:
        connection = await asyncpg.connect(database_url)
        try:
            ids = {row[0] for row in await connection.fetch("SELECT id::text FROM claim")}
            lines = await connection.fetchval("SELECT count(*) FROM claim_line")
            return ids, lines, await audit.books(connection), await audit.torn(connection)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_no_body_and_no_header_breaks_the_intake(service: Service) -> None:
    accepted: dict[str, Decimal] = {}

    @searching
    @given(posts())
    def send(post: Post) -> None:
        answer = asked(service, "POST", "/claims", post.body, **post.headers)
        if answer.status_code == 201:
            accepted[answer.json()["id"]] = post.net_fee()

    send()
    assert len(accepted) > EXAMPLES / 100  # so that not everything is refused for the same reason
    ids, lines, books, torn = stored(service.database_url)
    assert ids == set(accepted)
    assert books.difference == 0
    assert torn == 0
    assert lines == sum(lines_of(service, claim_id, net_fee) for claim_id, net_fee in accepted.items())
    assert "Traceback" not in service.log.read_text()


def lines_of(service: Service, claim_id: str, net_fee: Decimal) -> int:
    """How many lines a claim has that is read again, and must have this net fee in all."""
    claim = json.loads(service.http.get(f"/claims/{claim_id}").text, parse_float=Decimal)
    assert claim["net_fee"] == sum(one["net_fee"] for one in claim["lines"]) == net_fee
    return len(claim["lines"])


def test_no_query_and_no_path_breaks_a_read(service: Service) -> None:
    @searching
    @given(gets())
    def ask(target: str) -> None:
        asked(service, "GET", target)

    ask()
    assert "Traceback" not in service.log.read_text()
