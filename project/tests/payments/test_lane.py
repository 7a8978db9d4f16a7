"""A lane on a real queue: what it takes, and what it looks for again."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from project import db
from project.claims.batch import NewClaim
from project.payments import statements
from project.payments.client import Due
from project.payments.lane import Lane, lease
from project.tests.rows import new_claim, store


async def stored(database_url: str) -> NewClaim:
    claim = new_claim()
    await store(database_url, [claim])
    return claim


async def test_a_lease_leaves_what_was_due_before_it_is_told_to_look(database_url: str) -> None:
    claim = await stored(database_url)
    connection = await asyncpg.connect(database_url)
    in_a_minute = datetime.now(UTC) + timedelta(minutes=1)
    assert await lease(connection, statements.LEASE_DUE, 10, in_a_minute) == []
    [due] = await lease(connection, statements.LEASE_DUE, 10, in_a_minute - timedelta(hours=1))
    assert due.claim_id == claim.id
    assert in_a_minute - timedelta(hours=1) < due.due_at < in_a_minute
    await connection.close()


async def test_what_is_due_since_longer_than_what_was_taken_last_is_found_soon(database_url: str) -> None:
    """Its lease ran out, or its transaction was slow: the lane has gone on to later ones meanwhile."""
    taken: asyncio.Queue[Due] = asyncio.Queue()

    async def step(due: Due, _: float, called: object) -> None:
        taken.put_nowait(due)

    lane = Lane("pay", statements.LEASE_DUE, 4, lambda: db.connect_to_queue(database_url), step)
    running = asyncio.create_task(lane.run())
    connection = await asyncpg.connect(database_url)
    async with asyncio.timeout(20):
        for _ in range(3):
            late = await stored(database_url)
            newest = await stored(database_url)
            lane.wake()
            assert {(await taken.get()).claim_id, (await taken.get()).claim_id} == {late.id, newest.id}
            await connection.execute(
                "UPDATE payment SET leased_until = now(), next_attempt_at = now() - interval '1 h' WHERE claim_id = $1",
                late.id,
            )
            again = await taken.get()
            assert (again.claim_id, again.attempts) == (late.id, 2)
    await connection.close()
    lane.stop()
    await running
