"""The ledger against a real database: one commit for many, and what becomes of each claim when things go wrong."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from project import db
from project.claims.batch import Accepted, Busy, KeyReused, NumberTaken, Outcome, Replayed
from project.claims.ledger import Ledger
from project.errors import DatabaseAway, OutcomeUnknown, Overloaded, Problem
from project.tests.proxy import Proxy, proxied
from project.tests.rows import ledger, new_claim
from project.tests.service import line


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    """A look at the tables from outside."""
    made = await asyncpg.connect(database_url)
    yield made
    await made.close()


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Ledger]:
    """A ledger, closed at the end."""
    made = ledger(database_url)
    yield made
    await made.close()


async def total_matches_lines(connection: Any) -> bool:
    """Whether the running totals equal a GROUP BY over the lines, NPI by NPI."""
    from_lines = await connection.fetch(
        "SELECT provider_npi, sum(net_fee), count(*) FROM claim_line GROUP BY 1 ORDER BY 1"
    )
    kept = await connection.fetch("SELECT provider_npi, net_fee, line_count FROM provider_net_fee ORDER BY 1")
    return [tuple(row) for row in from_lines] == [tuple(row) for row in kept]


async def test_a_claim_is_stored_with_its_lines_payment_event_and_totals(writer: Ledger, connection: Any) -> None:
    claim = new_claim(line(provider_fees=130, allowed_fees=65, member_co_ins=16.25), line(provider_npi="1234567893"))
    assert await writer.submit([claim]) == [Accepted(claim.id)]
    row = await connection.fetchrow("SELECT * FROM claim")
    assert (row["id"], row["status"], row["net_fee"], row["line_count"]) == (claim.id, "accepted", Decimal("81.25"), 2)
    payment = await connection.fetchrow("SELECT * FROM payment")
    assert (payment["claim_id"], payment["state"], payment["attempts"]) == (claim.id, "due", 0)
    event = await connection.fetchrow("SELECT * FROM claim_event")
    assert (event["type"], event["seq"], event["amount"]) == ("claim.accepted", 1, Decimal("81.25"))
    assert (event["published_at"], event["actor"]) == (None, "local")
    assert await total_matches_lines(connection)


async def test_claims_that_wait_together_share_commits(writer: Ledger, connection: Any) -> None:
    before = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    claims = [new_claim() for _ in range(1200)]
    outcomes = await writer.submit(claims)
    assert outcomes == [Accepted(claim.id) for claim in claims]
    spent = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint") - before
    assert spent < 20
    assert await connection.fetchval("SELECT count(*) FROM claim") == 1200
    assert await total_matches_lines(connection)


async def test_the_queue_is_bounded_and_what_it_refuses_is_not_stored(database_url: str, connection: Any) -> None:
    writer = ledger(database_url, queue_lines=10)
    outcomes = await writer.submit([new_claim() for _ in range(15)])
    assert Counter(type(outcome) for outcome in outcomes) == {Accepted: 10, Overloaded: 5}
    assert await connection.fetchval("SELECT count(*) FROM claim") == 10
    assert isinstance((await writer.submit([new_claim()]))[0], Accepted)
    await writer.close()


async def test_a_repeat_with_the_same_key_gives_the_first_claim(writer: Ledger, connection: Any) -> None:
    first = new_claim(key="k")
    assert await writer.submit([first]) == [Accepted(first.id)]
    assert await writer.submit([new_claim(key="k")]) == [Replayed(first.id)]
    assert await writer.submit([new_claim(key="k", print_="another body")]) == [KeyReused()]
    assert await writer.submit([new_claim(key="k", client="another client")]) != [Replayed(first.id)]
    assert await connection.fetchval("SELECT count(*) FROM claim") == 2


async def test_one_key_many_times_at_once_over_two_ledgers_makes_one_claim(database_url: str, connection: Any) -> None:
    writers = [ledger(database_url), ledger(database_url)]
    beside = [new_claim() for _ in range(20)]
    repeats = [new_claim(key="k") for _ in range(200)]
    answers = await asyncio.gather(
        *(writers[number % 2].submit([claim]) for number, claim in enumerate([*repeats, *beside]))
    )
    outcomes = [answer[0] for answer in answers]
    kinds = Counter(type(outcome) for outcome in outcomes[:200])
    assert kinds[Accepted] == 1
    assert kinds[Accepted] + kinds[Replayed] + kinds[Busy] == 200
    assert {outcome.claim_id for outcome in outcomes[:200] if isinstance(outcome, Accepted | Replayed)} == {
        outcome.claim_id for outcome in outcomes[:200] if isinstance(outcome, Accepted)
    }
    assert all(isinstance(outcome, Accepted) for outcome in outcomes[200:])
    assert await connection.fetchval("SELECT count(*) FROM claim") == 21
    for writer in writers:
        await writer.close()


async def test_a_key_held_by_a_stuck_transaction_elsewhere_holds_up_nobody_else(
    writer: Ledger, connection: Any, database_url: str
) -> None:
    stuck = await asyncpg.connect(database_url)
    await stuck.execute("BEGIN")
    await stuck.execute(
        "INSERT INTO idempotency_key SELECT 'local', 'k', gen_random_uuid(), '' "
        "WHERE pg_try_advisory_xact_lock(7260415, hashtext('local' || chr(31) || 'k'))"
    )
    keyed, free = new_claim(key="k"), new_claim()
    waiting = asyncio.create_task(writer.submit([keyed]))
    assert await writer.submit([free]) == [Accepted(free.id)]
    assert not waiting.done()
    assert await waiting == [Busy()]
    await stuck.execute("ROLLBACK")
    await stuck.close()
    assert await writer.submit([keyed]) == [Accepted(keyed.id)]
    assert await connection.fetchval("SELECT count(*) FROM claim") == 2


async def test_an_expired_key_counts_as_absent(database_url: str, connection: Any) -> None:
    writer = ledger(database_url, retention_s=3600)
    first, second = new_claim(key="k"), new_claim(key="k", print_="another body")
    await writer.submit([first])
    await connection.execute("UPDATE idempotency_key SET created_at = now() - interval '3601 seconds'")
    assert await writer.submit([second]) == [Accepted(second.id)]
    assert await writer.submit([new_claim(key="k", print_="another body")]) == [Replayed(second.id)]
    await writer.close()


async def test_a_claim_number_is_taken_once_for_each_client(writer: Ledger, connection: Any) -> None:
    first, other = new_claim(number="C-1"), new_claim(number="C-1", client="other")
    outcomes = await writer.submit([first, new_claim(number="C-1"), other, new_claim(number="C-1", key="k")])
    assert outcomes == [Accepted(first.id), NumberTaken(first.id), Accepted(other.id), NumberTaken(first.id)]
    assert await connection.fetchval("SELECT count(*) FROM idempotency_key") == 0
    retry = new_claim(number="C-2", key="k")
    assert await writer.submit([retry]) == [Accepted(retry.id)]


async def test_opposite_npi_orders_from_many_connections_never_deadlock(database_url: str, connection: Any) -> None:
    npis = [f"{1000000000 + number}" for number in range(20)]
    up = [line(provider_npi=npi, provider_fees=101) for npi in npis]
    writers = [ledger(database_url) for _ in range(8)]
    rounds = [
        asyncio.create_task(writer.submit([new_claim(*(up if (number + turn) % 2 else up[::-1]))]))
        for turn in range(25)
        for number, writer in enumerate(writers)
    ]
    outcomes = [outcome for answer in await asyncio.gather(*rounds) for outcome in answer]
    assert Counter(type(outcome) for outcome in outcomes) == {Accepted: 200}
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await connection.fetchval(deadlocks) == 0
    assert await total_matches_lines(connection)
    for writer in writers:
        await writer.close()


async def test_a_claim_that_the_database_refuses_fails_alone(writer: Ledger, connection: Any) -> None:
    await connection.execute("ALTER TABLE claim_line ADD CHECK (group_id <> 'BROKEN')")
    good = [new_claim() for _ in range(20)]
    bad = new_claim(line(group_id="BROKEN"), key="k", number="C-1")
    outcomes = await writer.submit([*good[:10], bad, *good[10:]])
    assert [outcome for outcome in outcomes if isinstance(outcome, Accepted)] == [Accepted(claim.id) for claim in good]
    assert isinstance(outcomes[10], Problem)
    assert await connection.fetchval("SELECT count(*) FROM claim") == 20
    assert await connection.fetchval("SELECT count(*) FROM idempotency_key") == 0
    assert await connection.fetchval("SELECT count(*) FROM claim_number") == 0
    assert await total_matches_lines(connection)


async def test_a_caller_that_leaves_does_not_tear_the_batch(writer: Ledger, connection: Any) -> None:
    tasks = [asyncio.create_task(writer.submit([new_claim()])) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    stayed = [outcome[0] for outcome in outcomes if isinstance(outcome, list)]
    assert len(stayed) == 25
    assert all(isinstance(outcome, Accepted) for outcome in stayed)
    stored = {row[0] for row in await connection.fetch("SELECT id FROM claim")}
    assert {outcome.claim_id for outcome in stayed if isinstance(outcome, Accepted)} <= stored
    assert await total_matches_lines(connection)


async def test_close_finishes_what_is_in_hand_and_refuses_the_rest(database_url: str, connection: Any) -> None:
    writer = ledger(database_url)
    tasks = [asyncio.create_task(writer.submit([new_claim()])) for _ in range(300)]
    await asyncio.sleep(0)
    await writer.close()
    assert [outcome for task in tasks for outcome in task.result() if not isinstance(outcome, Accepted)] == []
    assert isinstance((await writer.submit([new_claim()]))[0], Overloaded)
    assert await connection.fetchval("SELECT count(*) FROM claim") == 300


@pytest.fixture
async def cut(database_url: str) -> AsyncIterator[Proxy]:
    """A way to the database that can be cut."""
    async with proxied(database_url) as proxy:
        yield proxy


async def submit_through(proxy: Proxy, *claims: Any) -> list[Outcome]:
    writer = Ledger(lambda: db.connect(proxy.url), queue_lines=1000, retention_s=60)
    writer.start()
    try:
        return await writer.submit(claims)
    finally:
        await writer.close()


async def test_a_commit_whose_answer_was_lost_is_found_by_the_claims_ids(cut: Proxy, connection: Any) -> None:
    cut.drop_answer_of(b"COMMIT")
    claims = [new_claim(), new_claim(key="k", number="C-1")]
    assert await submit_through(cut, *claims) == [Accepted(claim.id) for claim in claims]
    assert cut.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM claim") == 2


async def test_a_commit_that_never_arrived_is_done_again_and_stores_once(cut: Proxy, connection: Any) -> None:
    cut.drop_request(b"COMMIT")
    claims = [new_claim(), new_claim(key="k", number="C-1")]
    assert await submit_through(cut, *claims) == [Accepted(claim.id) for claim in claims]
    assert cut.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM claim") == 2
    assert await total_matches_lines(connection)


async def test_a_lost_commit_behind_which_others_wait_costs_none_of_them(cut: Proxy, connection: Any) -> None:
    cut.drop_answer_of(b"COMMIT AND CHAIN")
    claims = [new_claim() for _ in range(1000)]
    assert await submit_through(cut, *claims) == [Accepted(claim.id) for claim in claims]
    assert cut.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM claim") == 1000
    assert await total_matches_lines(connection)


async def test_a_connection_that_dies_between_two_batches_costs_nothing(cut: Proxy, connection: Any) -> None:
    """The second batch's transaction was begun with the first one's commit, and is gone with the connection."""
    await connection.execute("CREATE SEQUENCE batch")
    await connection.execute(
        """CREATE FUNCTION cut_the_second() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('batch') = 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL;
           END $$"""
    )
    await connection.execute(
        "CREATE TRIGGER cut AFTER INSERT ON claim FOR EACH STATEMENT EXECUTE FUNCTION cut_the_second()"
    )
    claims = [new_claim() for _ in range(1000)]
    assert await submit_through(cut, *claims) == [Accepted(claim.id) for claim in claims]
    assert await connection.fetchval("SELECT last_value FROM batch") == 3
    assert await connection.fetchval("SELECT count(*) FROM claim") == 1000
    assert await total_matches_lines(connection)


async def test_a_transaction_begun_for_callers_who_gave_up_is_ended(writer: Ledger, connection: Any) -> None:
    await connection.execute(
        """CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$"""
    )
    await connection.execute(
        """CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON claim DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION wait_for_the_test()"""
    )
    await connection.execute("SELECT pg_advisory_lock(1)")
    answers = [asyncio.create_task(writer.submit([new_claim()])) for _ in range(600)]
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        assert not any(answer.done() for answer in answers)
    for answer in answers[512:]:
        answer.cancel()
    await connection.execute("SELECT pg_advisory_unlock(1)")
    outcomes = [outcome for answer in answers[:512] for outcome in await answer]
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    while await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    ):
        assert not await connection.fetchval("SELECT count(*) > 512 FROM claim")
    late = new_claim()
    assert await writer.submit([late]) == [Accepted(late.id)]
    assert await connection.fetchval("SELECT count(*) FROM claim") == 513


async def test_a_lost_commit_that_cannot_be_looked_up_is_told_with_the_claims_id(cut: Proxy, connection: Any) -> None:
    cut.drop_answer_of(b"COMMIT", and_refuse_connections=True)
    claim = new_claim()
    [outcome] = await submit_through(cut, claim)
    assert isinstance(outcome, OutcomeUnknown)
    assert outcome.body()["id"] == str(claim.id)
    assert await connection.fetchval("SELECT count(*) FROM claim") == 1


async def test_a_connection_that_dies_before_commit_costs_nothing(cut: Proxy, connection: Any) -> None:
    cut.drop_request(b"INSERT INTO claim_line")
    claim = new_claim()
    assert await submit_through(cut, claim) == [Accepted(claim.id)]
    assert cut.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM claim") == 1


async def test_a_database_that_stays_away_is_told_within_five_seconds(cut: Proxy, connection: Any) -> None:
    cut.refuse_connections()
    started = asyncio.get_running_loop().time()
    [outcome] = await submit_through(cut, new_claim())
    assert isinstance(outcome, DatabaseAway)
    assert asyncio.get_running_loop().time() - started < 5
    assert await connection.fetchval("SELECT count(*) FROM claim") == 0


async def test_a_claim_that_was_told_not_stored_is_not_stored_later(cut: Proxy, connection: Any) -> None:
    cut.open.clear()
    writer = Ledger(lambda: db.connect(cut.url), queue_lines=1000, retention_s=60)
    writer.start()
    [outcome] = await writer.submit([new_claim()])
    assert isinstance(outcome, DatabaseAway)
    cut.open.set()  # the connection that was being made for that claim now comes about
    later = new_claim()
    assert await writer.submit([later]) == [Accepted(later.id)]
    assert [row[0] for row in await connection.fetch("SELECT id FROM claim")] == [later.id]
    await writer.close()


async def test_a_claim_that_waits_for_a_key_beside_a_broken_one_is_stored_once(
    writer: Ledger, connection: Any, database_url: str
) -> None:
    await connection.execute("ALTER TABLE claim_line ADD CHECK (group_id <> 'BROKEN')")
    stuck = await asyncpg.connect(database_url)
    await stuck.execute("BEGIN")
    await stuck.execute("SELECT pg_advisory_xact_lock(7260415, hashtext('local' || chr(31) || 'k'))")
    keyed, bad, good = new_claim(key="k"), new_claim(line(group_id="BROKEN")), new_claim()
    answer = asyncio.create_task(writer.submit([keyed, bad, good]))
    while not await connection.fetchval("SELECT count(*) FROM claim"):
        assert not answer.done()
    await stuck.execute("ROLLBACK")
    await stuck.close()
    outcomes = await answer
    assert [outcomes[0], outcomes[2]] == [Accepted(keyed.id), Accepted(good.id)]
    assert isinstance(outcomes[1], Problem)
    assert await connection.fetchval("SELECT count(*) FROM claim") == 2
    assert await total_matches_lines(connection)
