"""Large bodies are read beside the event loop, one after the other; what cannot be read in time is told so."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import pytest

from project import db
from project.claims import routes
from project.claims.intake import Refused
from project.claims.ledger import Ledger
from project.claims.routes import ClaimRoutes
from project.errors import Overloaded
from project.settings import IntakeSettings
from project.tests.conftest import Run
from project.tests.service import Service, line, wait_until
from project.tests.test_protocol_limits import connected

LARGEST = 1024 * 1024
BODY = (b"[" + b'{"a":1,"a":2},' * 100_000)[: LARGEST - 15] + b"]"


@pytest.fixture
async def handlers(database_url: str) -> AsyncIterator[ClaimRoutes]:
    """The routes of claims, without a server around them."""
    engine = db.create_engine(database_url, 2)
    ledger = Ledger(lambda: db.connect(database_url), queue_lines=1, retention_s=1)
    yield ClaimRoutes(ledger, engine, IntakeSettings(max_body_bytes=LARGEST), 1.0)
    await engine.dispose()


async def take_in(handlers: ClaimRoutes) -> object:
    """What becomes of a large body that is no claim."""
    try:
        return await handlers._taken_in_aside("json", BODY[: BODY.rindex(b"{") - 1] + b"]", packed=False, keyed=False)
    except (Refused, Overloaded) as outcome:
        return type(outcome)


async def test_more_large_bodies_than_may_wait_are_told_so(handlers: ClaimRoutes) -> None:
    outcomes = await asyncio.gather(*(take_in(handlers) for _ in range(routes.LARGEST_AT_ONCE + 3)))
    assert outcomes.count(Refused) >= routes.LARGEST_AT_ONCE
    assert outcomes.count(Overloaded) in (2, 3)  # the bodies are a little smaller than the largest
    assert await take_in(handlers) is Refused  # those that are done make room


async def test_a_large_body_whose_turn_does_not_come_is_told_so(
    handlers: ClaimRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "ASIDE_WITHIN_S", 0.05)
    go_on = threading.Event()
    handlers.aside.submit(go_on.wait)
    assert await take_in(handlers) is Overloaded
    go_on.set()
    monkeypatch.undo()
    assert await take_in(handlers) is Refused


def beside(service: Service, work: Callable[[], object], clients: int) -> list[float]:
    """How long /livez takes, in seconds and sorted, while clients do this again and again."""
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            work()

    floods = [threading.Thread(target=flood) for _ in range(clients)]
    for one in floods:
        one.start()
    try:
        return sorted(service.http.get("/livez").elapsed.total_seconds() for _ in range(40))
    finally:
        stop.set()
        for one in floods:
            one.join()


def test_the_process_answers_others_while_it_reads_large_bodies(service: Service) -> None:
    body = json.dumps([line()] * 9_999 + [line(provider_npi="1")])

    def post() -> None:
        assert service.http.post("/claims", content=body, headers={"Content-Type": "application/json"}).is_error

    waits = beside(service, post, clients=4)
    assert waits[20] < 0.5  # hundredths of a second, on a machine with nothing else to do
    assert waits[-1] < 5.0


def test_the_process_answers_others_while_large_claims_are_looked_at(service: Service) -> None:
    claim = service.accepted([line()] * 10_000, Prefer="return=minimal")

    def look() -> None:
        answer = service.http.get(f"/claims/{claim['id']}")
        assert answer.status_code == 503 or answer.text.count('"line_no"') == 10_000

    waits = beside(service, look, clients=16)
    assert waits[20] < 0.7
    assert waits[-1] < 5.0


def test_bodies_on_their_way_are_bounded_together(serve: Run) -> None:
    with serve(MAX_BODY_BYTES=str(LARGEST)) as service, ExitStack() as stack:
        head = (
            b"POST /claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        for _ in range(routes.LARGEST_AT_ONCE):
            slow = stack.enter_context(connected(service))
            slow.sendall(head % LARGEST + b" " * (LARGEST - 1))

        def is_full() -> bool:
            answer = service.submit([line()])
            return answer.status_code == 503 and answer.json()["type"] == "/problems/overloaded"

        wait_until(is_full, "there is no room for another")
        assert service.http.get("/claims").status_code == 200
        stack.close()
        wait_until(lambda: service.submit([line()]).status_code == 201, "there is room again")
