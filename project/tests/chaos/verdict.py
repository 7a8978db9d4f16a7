"""What must hold once the violence is over and all is quiet: a list of complaints, empty if it does. Called by `trial`."""

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import redis

from project.engines.places import VALKEY_SOCKET
from project.tests.chaos.clients import MARK, Client, Posted
from project.tests.chaos.stack import CACHE_DATABASE, EVENTS_DATABASE, Stack
from project.tests.service import wait_until

QUIET_WITHIN_S = 240.0
SHOWN = 5

# Where a token is: live lines, and lines of claims kept in dead letters.
_WHERE = """
SELECT group_id, claim_id::text FROM claim_line GROUP BY 1, 2
UNION
SELECT line ->> 'group_id', claim_id::text FROM dead_letter, jsonb_array_elements(claim -> 'lines') AS line
"""
_TORN_LINES = (
    "SELECT count(*) FROM claim WHERE line_count <> (SELECT count(*) FROM claim_line WHERE claim_id = claim.id)"
)
_DEFECTS = ("batch_failed", "batch_rolled_back", "request_failed", "step_failed", "settle_failed", "probe_failed")


def complaints(stack: Stack, clients: Sequence[Client]) -> list[str]:
    """All of them. Waits for quiet first."""
    posted = [one for client in clients for one in client.posted]
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _quiet(stack),
        lambda: _acknowledged(stack, posted),
        lambda: _not_stored(stack, posted),
        lambda: _books(stack, posted),
        lambda: _ranking(stack),
        lambda: _events(stack),
        lambda: _answers(clients),
        lambda: _logs(stack),
        lambda: _mark(stack),
    ]
    found: list[str] = []
    for check in checks:
        try:
            found += check()
        except AssertionError as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.append(f"{place.name}: {str(error) or place.line}")
    return found


def _quiet(stack: Stack) -> Iterator[str]:
    stack.saga.await_quiet(QUIET_WITHIN_S)
    unpublished = "SELECT count(*) FROM claim_event WHERE published_at IS NULL"
    wait_until(lambda: stack.saga.fetch(unpublished) == [(0,)], "every event is published", QUIET_WITHIN_S)
    yield from ()


def _acknowledged(stack: Stack, posted: Sequence[Posted]) -> Iterator[str]:
    """I1: what was acknowledged is there or was reversed, once."""
    known = {str(claim_id) for (claim_id,) in stack.saga.fetch("SELECT DISTINCT claim_id FROM claim_event")}
    lost = [one.token for one in posted if not one.ids <= known]
    if lost:
        yield f"I1: {len(lost)} acknowledged claims are lost: {lost[:SHOWN]}"
    twice = [one.token for one in posted if len(one.ids) > 1]
    if twice:
        yield f"I5: {len(twice)} keys were answered with several claims: {twice[:SHOWN]}"


def _not_stored(stack: Stack, posted: Sequence[Posted]) -> Iterator[str]:
    """What was answered as not stored is not, and nothing is stored twice."""
    found: dict[str, set[str]] = {}
    for token, claim_id in stack.saga.fetch(_WHERE):
        found.setdefault(token, set()).add(claim_id)
    twice = [token for token, ids in found.items() if len(ids) > 1]
    if twice:
        yield f"I1: {len(twice)} claims are stored twice: {twice[:SHOWN]}"
    refused = [one.token for one in posted if one.token in found and not one.stored and not one.open]
    if refused:
        yield f"I1: {len(refused)} claims are stored, though the answer was that they are not: {refused[:SHOWN]}"
    strangers = [one.token for one in posted if one.ids and one.token in found and found[one.token] != one.ids]
    if strangers:
        yield f"I1: {len(strangers)} claims are stored under other ids than they were answered: {strangers[:SHOWN]}"
    if stack.saga.fetch(_TORN_LINES) != [(0,)]:
        yield f"I6: claims without all of their lines: {stack.saga.fetch(_TORN_LINES)}"


def _books(stack: Stack, posted: Sequence[Posted]) -> Iterator[str]:
    """I2 to I4, beside the ledger of payments."""
    stack.saga.reconcile({UUID(claim_id) for one in posted for claim_id in one.ids})
    told, code = stack.saga.run_any("doctor")
    if code != 0:
        yield f"the doctor: {told}"


def _ranking(stack: Stack) -> Iterator[str]:
    """The ranking equals what a recomputation from all lines gives."""
    query = (
        "SELECT provider_npi, sum(net_fee)::float FROM claim_line GROUP BY 1 ORDER BY sum(net_fee) DESC, 1 LIMIT 100"
    )
    wanted = [{"provider_npi": npi, "net_fee": fee} for npi, fee in stack.saga.fetch(query)]
    wait_until(
        lambda: stack.web.http.get("/top-provider?limit=100").json() == wanted, "the ranking equals a recomputation", 10
    )
    yield from ()


def _events(stack: Stack) -> Iterator[str]:
    """I10: the first delivery of each event is in order within its claim, and none is missing."""
    last: dict[str, int] = {}
    gaps = 0
    with redis.Redis(unix_socket_path=str(stack.places.sockets / VALKEY_SOCKET), db=EVENTS_DATABASE) as client:
        for _, fields in client.xrange("claim-events"):
            event = json.loads(fields[b"event"])
            claim_id, seq = event["subject"], event["data"]["seq"]
            gaps += seq > last.get(claim_id, 0) + 1
            last[claim_id] = max(seq, last.get(claim_id, 0))
    if gaps:
        yield f"I10: {gaps} events came before their predecessors"
    wanted = {
        str(claim): seq for claim, seq in stack.saga.fetch("SELECT claim_id, max(seq) FROM claim_event GROUP BY 1")
    }
    if last != wanted:
        missing = [claim for claim, seq in wanted.items() if last.get(claim) != seq]
        yield f"I10: the stream lacks the last events of {len(missing)} claims: {missing[:SHOWN]}"


def _answers(clients: Sequence[Client]) -> Iterator[str]:
    faults = Counter(answer.fault for client in clients for answer in client.answers if answer.fault)
    for fault, count in faults.items():
        yield f"{fault}, {count} times"


def _logs(stack: Stack) -> Iterator[str]:
    """No traceback, and no line that only a defect writes."""
    lines = stack.logs().splitlines()
    tracebacks = sum("Traceback" in line for line in lines)
    if tracebacks:
        yield f"{tracebacks} tracebacks in the logs"
    for word in _DEFECTS:
        told = [line for line in lines if f'"{word}"' in line]
        if told:
            yield f"{word} was logged {len(told)} times: {told[:SHOWN]}"


def _mark(stack: Stack) -> Iterator[str]:
    """I7: a subscriber id is in no log, metric, event or cache."""
    pages = {"metrics": stack.web.http.get("/metrics").text, "logs": stack.logs()}
    pages |= {
        f"metrics of worker {number}": one.http.get("/metrics").text for number, one in enumerate(stack.saga.workers)
    }
    for page, text in pages.items():
        if MARK in text:
            yield f"I7: a subscriber id is in the {page}"
    for database in (CACHE_DATABASE, EVENTS_DATABASE):
        with redis.Redis(unix_socket_path=str(stack.places.sockets / VALKEY_SOCKET), db=database) as client:
            for key in client.scan_iter():
                held = client.xrange(key) if client.type(key) == b"stream" else client.get(key)
                if MARK in str(held) or MARK in str(key):
                    yield f"I7: a subscriber id is in {key!r} of Valkey"
