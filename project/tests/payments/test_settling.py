"""Leases and what becomes of them, on real tables: each transition as one guarded statement, each fence by itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from project import audit, db
from project.claims import batch
from project.payments import statements
from project.payments.client import Due
from project.payments.lane import lease
from project.payments.settling import (
    Failed,
    GivenBack,
    GivenUp,
    NotCancelled,
    Outcome,
    Reversed,
    Settled,
    Settler,
    settle,
)
from project.tests.proxy import proxied
from project.tests.rows import new_claim, store
from project.tests.service import line

HOUR_S = 3600.0


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def submitted(database_url: str, *lines: dict[str, object], number: str | None = None) -> UUID:
    claim = new_claim(*lines, number=number)
    assert await store(database_url, [claim]) == [batch.Accepted(claim.id)]
    return claim.id


async def leased(connection: Any, statement: str = statements.LEASE_DUE, limit: int = 10) -> list[Due]:
    return await lease(connection, statement, limit)


async def settled(connection: Any, *outcomes: Outcome) -> set[UUID]:
    async with connection.transaction():
        return await settle(connection, outcomes)


async def given_up(connection: Any, claim_id: UUID) -> None:
    [due] = await leased(connection)
    assert await settled(connection, GivenUp(due, "refused", "insufficient_funds")) == {claim_id}


async def snapshot(connection: Any) -> list[Any]:
    """Everything there is."""
    tables = ("claim", "claim_line", "claim_number", "payment", "claim_event", "dead_letter", "provider_net_fee")
    return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


async def test_a_lease_brings_all_that_a_call_needs(database_url: str, connection: Any) -> None:
    claim_id = await submitted(
        database_url,
        line(provider_npi="2222222222", provider_fees=100.10),
        line(provider_npi="1111111111", provider_fees=90),
        line(provider_npi="2222222222", provider_fees=100.20),
    )
    [due] = await leased(connection)
    assert (due.claim_id, due.redrive_no, due.lease_no, due.attempts, due.net_fee) == (claim_id, 0, 1, 1, "-9.70")
    assert json.loads(due.providers) == [
        {"provider_npi": "1111111111", "net_fee": "-10.00"},
        {"provider_npi": "2222222222", "net_fee": "0.30"},
    ]


async def test_a_leased_payment_is_nobody_elses_until_the_lease_is_over(database_url: str, connection: Any) -> None:
    await submitted(database_url)
    [first] = await leased(connection)
    assert await leased(connection) == []
    await connection.execute("UPDATE payment SET leased_until = now() - interval '1 ms'")
    [second] = await leased(connection)
    assert (second.lease_no, second.attempts) == (first.lease_no + 1, 2)


async def test_many_workers_never_lease_one_payment_twice(database_url: str) -> None:
    await store(database_url, [new_claim() for _ in range(200)])
    workers = [await asyncpg.connect(database_url) for _ in range(6)]

    async def work(connection: Any) -> list[UUID]:
        mine: list[UUID] = []
        while taken := await leased(connection, limit=7):
            mine += [due.claim_id for due in taken]
        return mine

    taken = [claim_id for mine in await asyncio.gather(*map(work, workers)) for claim_id in mine]
    assert len(taken) == len(set(taken)) == 200
    for worker in workers:
        await worker.close()


async def test_leases_take_the_longest_due_first_and_use_the_queues_index(database_url: str, connection: Any) -> None:
    claims = [new_claim() for _ in range(500)]
    await store(database_url, claims)
    await connection.execute(
        "UPDATE payment SET next_attempt_at = now() - interval '1 h' WHERE claim_id = $1", claims[20].id
    )
    [due] = await leased(connection, limit=1)
    assert due.claim_id == claims[20].id
    await connection.execute("ANALYZE payment, claim, claim_line")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE leasing AS {statements.LEASE_DUE}")
    plan = str(await connection.fetch("EXPLAIN EXECUTE leasing (10, '10 s', NULL)"))
    assert "ix_payment_due" in plan
    assert "Index Cond: (((state)::text = 'due'::text) AND (next_attempt_at >= COALESCE($3" in plan


async def test_paid_is_written_to_claim_payment_and_history(database_url: str, connection: Any) -> None:
    claim_id = await submitted(database_url)
    [due] = await leased(connection)
    assert await settled(connection, Settled(due, "p-1")) == {claim_id}
    claim = await connection.fetchrow("SELECT status, paid_at IS NOT NULL AS dated FROM claim")
    assert dict(claim) == {"status": "paid", "dated": True}
    payment = await connection.fetchrow("SELECT state, payment_id, leased_until, event_seq FROM payment")
    assert tuple(payment) == ("paid", "p-1", None, 2)
    events = await connection.fetch("SELECT seq, type, actor, client, amount, line_count FROM claim_event ORDER BY seq")
    assert tuple(events[1]) == (2, "claim.paid", "worker", "local", Decimal("0.00"), 1)
    assert await leased(connection) == []


async def test_a_failed_call_is_due_again_after_its_delay(database_url: str, connection: Any) -> None:
    await submitted(database_url)
    [due] = await leased(connection)
    await settled(connection, Failed(due, "HTTP 503", 3.5))
    row = await connection.fetchrow("SELECT attempts, last_error, next_attempt_at - now() AS pause FROM payment")
    assert (row["attempts"], row["last_error"]) == (1, "HTTP 503")
    assert 3.0 < row["pause"].total_seconds() <= 3.5
    event = await connection.fetchrow("SELECT type, detail FROM claim_event WHERE seq = 2")
    assert tuple(event) == ("claim.attempt_failed", "HTTP 503")


async def test_a_lease_that_is_given_back_has_cost_no_attempt(database_url: str, connection: Any) -> None:
    await submitted(database_url)
    [due] = await leased(connection)
    await settled(connection, GivenBack(due))
    [again] = await leased(connection)
    assert (again.attempts, again.lease_no) == (1, 2)
    assert await connection.fetchval("SELECT count(*) FROM claim_event") == 1


async def test_a_dead_letter_holds_the_whole_claim(database_url: str, connection: Any) -> None:
    claim_id = await submitted(database_url, line(provider_fees=100.10), line(quadrant="UR"), number="N-1")
    before = await connection.fetch("SELECT * FROM claim_line ORDER BY line_no")
    await given_up(connection, claim_id)
    letter = await connection.fetchrow("SELECT * FROM dead_letter")
    assert (letter["claim_id"], letter["redrive_no"], letter["state"], letter["attempts"]) == (
        claim_id,
        0,
        "waiting",
        1,
    )
    assert (letter["reason"], letter["detail"], letter["amount"]) == ("refused", "insufficient_funds", Decimal("0.10"))
    kept = await connection.fetch(
        "SELECT * FROM jsonb_populate_recordset(NULL::claim_line, (SELECT claim -> 'lines' FROM dead_letter))"
    )
    assert [{**row, "claim_id": claim_id} for row in kept] == [dict(row) for row in before]
    assert '"100.10"' not in letter["claim"]
    assert "100.10" in letter["claim"]
    event = await connection.fetchrow("SELECT id, type, detail FROM claim_event WHERE seq = 2")
    assert tuple(event) == (letter["id"], "claim.reversing", "refused: insufficient_funds")
    assert await connection.fetchval("SELECT status FROM claim") == "reversing"
    assert await connection.fetchval("SELECT count(*) FROM claim_line") == 2


async def test_a_reversal_takes_back_all_but_the_history(database_url: str, connection: Any) -> None:
    kept = await submitted(database_url, line(provider_fees=150), number="KEPT")
    [due] = await leased(connection)
    await settled(connection, Settled(due, "p-0"))
    totals = await connection.fetch("SELECT * FROM provider_net_fee")
    claim_id = await submitted(database_url, line(provider_fees=120.55), line(provider_npi="1111111111"), number="N-1")
    await given_up(connection, claim_id)
    [due] = await leased(connection, statements.LEASE_REVERSING)
    assert await settled(connection, Reversed(due)) == {claim_id}
    assert await connection.fetch("SELECT * FROM provider_net_fee WHERE line_count > 0") == totals
    assert await connection.fetchval("SELECT sum(net_fee) FROM provider_net_fee WHERE line_count = 0") == 0
    for table, column in (
        ("claim", "id"),
        ("claim_line", "claim_id"),
        ("claim_number", "claim_id"),
        ("payment", "claim_id"),
    ):
        assert [row[0] for row in await connection.fetch(f"SELECT DISTINCT {column} FROM {table}")] == [kept]
    letter = await connection.fetchrow("SELECT state, closed_at IS NOT NULL FROM dead_letter")
    assert tuple(letter) == ("reversed", True)
    types = [
        row[0]
        for row in await connection.fetch("SELECT type FROM claim_event WHERE claim_id = $1 ORDER BY seq", claim_id)
    ]
    assert types == ["claim.accepted", "claim.reversing", "claim.reversed"]
    assert (await audit.books(connection)).difference == 0
    again = new_claim(number="N-1")
    assert await store(database_url, [again]) == [batch.Accepted(again.id)]


async def test_an_unconfirmed_cancellation_leaves_everything_and_is_tried_again(
    database_url: str, connection: Any
) -> None:
    claim_id = await submitted(database_url)
    await given_up(connection, claim_id)
    [due] = await leased(connection, statements.LEASE_REVERSING)
    assert due.attempts == 1
    await settled(connection, NotCancelled(due, "HTTP 500", 0.0))
    [again] = await leased(connection, statements.LEASE_REVERSING)
    assert again.attempts == 2
    assert await connection.fetchval("SELECT status FROM claim") == "reversing"
    assert await connection.fetchval("SELECT count(*) FROM claim_event") == 2


OUTCOMES: list[tuple[str, Callable[[Due], Outcome]]] = [
    ("due", lambda due: Settled(due, "p-9")),
    ("due", lambda due: Failed(due, "late", 0.0)),
    ("due", GivenBack),
    ("due", lambda due: GivenUp(due, "exhausted", "late")),
    ("reversing", lambda due: NotCancelled(due, "late", 0.0)),
    ("reversing", Reversed),
]


@pytest.mark.parametrize(("state", "outcome"), OUTCOMES)
@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE payment SET lease_no = lease_no + 1",
        "UPDATE payment SET redrive_no = redrive_no + 1; UPDATE claim SET redrive_no = redrive_no + 1",
        "UPDATE payment SET state = 'paid'; UPDATE claim SET status = 'paid'",
        "UPDATE payment SET state = CASE state WHEN 'due' THEN 'reversing' ELSE 'due' END",
        "DELETE FROM payment",
    ],
)
async def test_who_lost_the_lease_changes_nothing(
    database_url: str, connection: Any, state: str, outcome: Callable[[Due], Outcome], meanwhile: str
) -> None:
    claim_id = await submitted(database_url, number="N-1")
    if state == "reversing":
        await given_up(connection, claim_id)
        [due] = await leased(connection, statements.LEASE_REVERSING)
    else:
        [due] = await leased(connection)
    await connection.execute(meanwhile)
    before = await snapshot(connection)
    assert await settled(connection, outcome(due)) == set()
    assert await snapshot(connection) == before


@pytest.mark.parametrize(("state", "outcome"), OUTCOMES)
async def test_settling_twice_is_settling_once(
    database_url: str, connection: Any, state: str, outcome: Callable[[Due], Outcome]
) -> None:
    claim_id = await submitted(database_url, number="N-1")
    if state == "reversing":
        await given_up(connection, claim_id)
        [due] = await leased(connection, statements.LEASE_REVERSING)
    else:
        [due] = await leased(connection)
    assert await settled(connection, outcome(due)) == {claim_id}
    before = await snapshot(connection)
    assert await settled(connection, outcome(due)) == set()
    assert await snapshot(connection) == before
    assert await audit.torn(connection) == 0


async def test_two_that_settle_one_lease_at_once_are_one(database_url: str, connection: Any) -> None:
    claim_id = await submitted(database_url)
    [due] = await leased(connection)
    settlers = [Settler(lambda: db.connect(database_url)) for _ in range(4)]
    for settler in settlers:
        settler.start()
    expires = asyncio.get_running_loop().time() + HOUR_S
    changed = await asyncio.gather(*(settler.submit(Settled(due, "p-1"), expires) for settler in settlers))
    assert sorted(changed) == [False, False, False, True]
    assert await connection.fetchval("SELECT count(*) FROM claim_event WHERE claim_id = $1", claim_id) == 2
    for settler in settlers:
        await settler.close()


async def settled_together(database_url: str, outcomes: list[Outcome]) -> list[bool]:
    settler = Settler(lambda: db.connect(database_url))
    settler.start()
    expires = asyncio.get_running_loop().time() + HOUR_S
    changed = await asyncio.gather(*(settler.submit(outcome, expires) for outcome in outcomes))
    await settler.close()
    return changed


async def test_outcomes_share_commits(database_url: str, connection: Any) -> None:
    await store(database_url, [new_claim() for _ in range(60)])
    dues = await leased(connection, limit=60)
    before = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    assert all(await settled_together(database_url, [Settled(due, "p") for due in dues]))
    assert await connection.fetchval("SELECT pg_current_xact_id()::text::bigint") - before < 5


async def test_a_bad_outcome_fails_alone(database_url: str, connection: Any) -> None:
    await store(database_url, [new_claim() for _ in range(9)])
    dues = await leased(connection, limit=9)
    outcomes: list[Outcome] = [Settled(due, "p") for due in dues]
    outcomes[7] = GivenUp(dues[7], "a reason that is longer than its column", "bad")
    changed = await settled_together(database_url, outcomes)
    assert [changed.index(False), changed.count(True)] == [7, 8]
    assert await connection.fetchval("SELECT count(*) FROM claim WHERE status = 'paid'") == 8


async def test_a_lost_commit_is_settled_once(database_url: str, connection: Any) -> None:
    claim_id = await submitted(database_url)
    [due] = await leased(connection)
    async with proxied(database_url) as proxy:
        settler = Settler(lambda: db.connect(proxy.url))
        settler.start()
        proxy.drop_answer_of(b"COMMIT;")
        await settler.submit(Settled(due, "p-1"), asyncio.get_running_loop().time() + HOUR_S)
        assert proxy.cuts == 1
        await settler.close()
    assert await connection.fetchval("SELECT status FROM claim") == "paid"
    assert await connection.fetchval("SELECT count(*) FROM claim_event WHERE claim_id = $1", claim_id) == 2


async def test_an_outcome_whose_lease_ran_out_is_dropped(database_url: str, connection: Any) -> None:
    await submitted(database_url)
    [due] = await leased(connection)
    async with proxied(database_url) as proxy:
        proxy.refuse_connections()
        settler = Settler(lambda: db.connect(proxy.url))
        settler.start()
        assert not await settler.submit(Settled(due, "p-1"), asyncio.get_running_loop().time() + 0.3)
        await settler.close()
    assert await connection.fetchval("SELECT status FROM claim") == "accepted"


async def test_large_claims_share_their_commits_with_few(database_url: str, connection: Any) -> None:
    """Twelve claims of 4,000 lines are given up and reversed within the time that a statement has."""
    lines = [line(provider_npi=f"{1000000000 + number}") for number in range(4000)]
    await store(database_url, [new_claim(*lines) for _ in range(12)])
    dues = await leased(connection, limit=12)
    assert {due.line_count for due in dues} == {4000}
    assert all(await settled_together(database_url, [GivenUp(due, "refused", "no") for due in dues]))
    cancelled = await leased(connection, statements.LEASE_REVERSING, limit=12)
    assert all(await settled_together(database_url, [Reversed(due) for due in cancelled]))
    assert await connection.fetchval("SELECT count(*) FROM claim_line") == 0
    assert (await audit.books(connection)).difference == 0
