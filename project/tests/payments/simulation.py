"""The saga in a world where everything goes wrong, decided by one integer: `Simulation(seed, connection).run()`.

Real are the SQL (on a real Postgres), the steps of the saga, its settlements, the breaker, the publisher's rounds, and
the stand-in's store. Simulated are the processes (killed or stalled at every await), the network to payments (requests
and answers lost, late, doubled, out of order), the event hub, and time. Of all actors exactly one runs at a time, and
the dice say which, so the same seed is the same story. A Violation names the seed; replay it with

    DATABASE_URL=(a migrated scratch database) python -m project.tests.payments.simulation --tell SEED
"""

import asyncio
import random
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from project import db, settings
from project.claims import batch
from project.dead_letters import queue
from project.errors import Problem
from project.ids import new_id
from project.notifications.event_hub import HubAway, Message
from project.notifications.publisher import publish_round
from project.payments import stand_in_store as store
from project.payments import statements
from project.payments.breaker import Breaker
from project.payments.client import Cancelled, Due, Paid, Refused, Result, Unavailable, Unknown
from project.payments.lane import LEASE_S, lease
from project.payments.saga import Steps
from project.payments.settling import Outcome, settle
from project.tests.payments.invariants import Violation, check, is_open
from project.tests.rows import new_claim
from project.tests.service import line

STEPS = 150
WORKERS = 3  # beside the stalled
START = datetime(2026, 1, 1, tzinfo=UTC)
# What a transaction reads as now() is the simulation's time.
VIRTUAL_TIME = """
CREATE SCHEMA IF NOT EXISTS virtual;
CREATE OR REPLACE FUNCTION virtual.now() RETURNS timestamptz STABLE LANGUAGE sql
AS $$ SELECT current_setting('virtual.now')::timestamptz $$;
SET search_path = virtual, pg_catalog, public;
"""


class Actor:
    """A task that runs only when it is released, until its next gate. `request`: what it waits for from the network."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.arrived = asyncio.Event()
        self.gate: asyncio.Future[Any] | None = None
        self.request: Request | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.task is not None and not self.task.done()


class Request:
    """A call on its way to payments. `answer` is on its way back; either may be lost, and the call may be doubled."""

    def __init__(self, kind: str, key: str, claim_id: str = "", net_fee: str = "") -> None:
        self.kind = kind
        self.key = key
        self.claim_id = claim_id
        self.net_fee = net_fee
        self.answer: Any = None


class Hub:
    """Takes events, or some of them, or takes them and does not say so."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self.delivered: list[tuple[str, int]] = []

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        await self._world.pause()
        taken = [not self._world.fault(0.2) for _ in messages]
        for message, has in zip(messages, taken, strict=True):
            if has:
                seq = int(message.content.split(b'"sequence":"', 1)[1][:10])
                self.delivered.append((message.claim_id, seq))
        await self._world.pause()
        if self._world.fault(0.1):
            raise HubAway
        return taken


class Simulation:
    """One seed's world over one connection, whose database has no open payments when it begins and when it ends."""

    def __init__(self, seed: int, connection: Any, *, telling: bool = False) -> None:
        self.seed = seed
        self._telling = telling
        self.dice = random.Random(seed)
        self._attempts = self.dice.choice([1, 1, 2, 4])
        self._most_claims = self.dice.choice([1, 1, 2, 5])
        self._stall_weight = self.dice.choice([0.2, 1.0])
        self._faults = self.dice.choice([0.5, 1.0, 2.0])
        self.now = 0.0
        self.quiet = False
        self.claims: dict[UUID, Decimal] = {}
        self.hub = Hub(self)
        self._connection = connection
        self._store = store.open_database(":memory:")
        self._actors: dict[asyncio.Task[None], Actor] = {}
        self._requests: list[Request] = []
        self._owners = 0
        self._refused: set[str] = set()
        self._life = new_id()  # a seed lived before in this database holds its claim numbers still
        self._stalled: set[int] = set()

    # --- what the actors call ---

    async def pause(self) -> Any:
        """A gate: here the actor may be killed, or wait while the world goes on."""
        task = asyncio.current_task()
        assert task
        actor = self._actors[task]
        actor.gate = asyncio.get_running_loop().create_future()
        actor.arrived.set()
        return await actor.gate

    def fault(self, probability: float) -> bool:
        """Whether something goes wrong now; nothing does once it is quiet."""
        return not self.quiet and self.dice.random() < probability * self._faults

    async def pay(self, due: Due) -> Result:
        result: Result = await self._call(Request("pay", due.key, str(due.claim_id), due.net_fee))
        return result

    async def cancel(self, due: Due) -> Cancelled | Unavailable | Unknown:
        result: Cancelled | Unavailable | Unknown = await self._call(Request("cancel", due.key))
        return result

    async def _call(self, request: Request) -> Any:
        task = asyncio.current_task()
        assert task
        self._requests.append(request)
        actor = self._actors[task]
        actor.request = request
        try:
            return await self.pause()
        finally:
            actor.request = None

    async def settle(self, outcome: Outcome, expires: float) -> bool:
        await self.pause()
        if self.now >= expires:
            return False
        await self.pause()  # what stands still here wakes with a lease that it believes in
        async with self._connection.transaction():
            changed = await settle(self._connection, [outcome])
        await self.pause()
        return outcome.due.claim_id in changed

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        """The connection as the publisher sees it: with a gate before and after each statement."""
        await self.pause()
        rows = await self._connection.fetch(statement, *arguments)
        await self.pause()
        return rows

    execute = fetch

    # --- the actors ---

    async def _worker(self, owner: int) -> None:
        breaker = Breaker()
        steps = Steps(self, self.settle, breaker, self.dice, lambda: self.now, self._attempts)
        while True:
            await self.pause()
            if breaker.wants_probe(self.now):
                breaker.probed(True, self.now)
            paying = self.dice.random() < 0.6
            wanted = breaker.admits(self.dice.randint(1, 3), 0) if paying else 2
            if not wanted:
                continue
            expires = self.now + LEASE_S
            statement = statements.LEASE_DUE if paying else statements.LEASE_REVERSING
            leased = await lease(self._connection, statement, wanted)
            await self.pause()
            step = steps.pay if paying else steps.reverse
            for due in leased:
                await self._spawn(owner, _forget(step(due, expires)))

    async def _publisher(self) -> None:
        while True:
            with suppress(HubAway):
                await publish_round(self, self.hub, "/simulation")
            await self.pause()

    async def _spawn(self, owner: int, work: Coroutine[Any, Any, None]) -> None:
        actor = Actor(owner)
        actor.task = asyncio.create_task(work)
        self._actors[actor.task] = actor
        actor.task.add_done_callback(lambda _: actor.arrived.set())
        await actor.arrived.wait()

    async def _start_worker(self) -> None:
        self._owners += 1
        await self._spawn(self._owners, self._worker(self._owners))

    async def _start_publisher(self) -> None:
        self._owners += 1
        await self._spawn(self._owners, self._publisher())

    # --- what may happen next ---

    async def _release(self, actor: Actor, value: Any = None) -> None:
        assert actor.gate
        assert actor.task
        actor.arrived.clear()
        actor.gate.set_result(value)
        await actor.arrived.wait()
        if actor.task.done():
            del self._actors[actor.task]
            actor.task.result()

    async def _kill(self, owner: int) -> None:
        """kill -9 of a process; what it has sent stays on its way."""
        for task, actor in list(self._actors.items()):
            if actor.owner == owner:
                del self._actors[task]
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _stall(self, owner: int) -> None:
        """The process stands still, with whatever it holds, or goes on."""
        self._stalled ^= {owner}

    async def _pass(self, seconds: float) -> None:
        self.now += seconds
        instant = START + timedelta(seconds=self.now)
        await self._connection.execute("SELECT set_config('virtual.now', $1, false)", instant.isoformat())

    async def _deliver(self, request: Request) -> None:
        """Payments handles the request; a doubled one stays on its way."""
        if not self.fault(0.15):
            self._requests.remove(request)
        answer = self._handled(request)
        waiting = next((actor for actor in self._actors.values() if actor.request is request), None)
        if waiting is None:
            return
        if self.fault(0.2):
            answer = Unknown("connection lost")
        await self._release(waiting, answer)

    def _handled(self, request: Request) -> Any:
        """The stand-in's own rules."""
        if request.kind == "cancel":
            if self.fault(0.2):
                return Unavailable("HTTP 503")
            store.cancel(self._store, request.key)
            return Cancelled()
        known = store.find(self._store, request.key)
        if known is None:
            if self.fault(0.2):
                return Unavailable("HTTP 503")
            if request.key in self._refused or self.fault(0.2):
                self._refused.add(request.key)
                return Refused("insufficient_funds")
            known = store.pay(self._store, request.key, request.claim_id, request.net_fee)
        return Paid(known.payment_id or "") if known.status == "paid" else Refused("cancelled")

    async def _lose(self, request: Request) -> None:
        """The request never arrives; whoever waits runs into a timeout."""
        self._requests.remove(request)
        await self._time_out(request)

    async def _time_out(self, request: Request) -> None:
        """The caller gives up; the request may yet arrive."""
        waiting = next((actor for actor in self._actors.values() if actor.request is request), None)
        if waiting:
            await self._release(waiting, Unknown("no answer in time"))

    async def _submit(self) -> None:
        number = f"{self._life}-{self.dice.randrange(3)}" if self.dice.random() < 0.5 else None
        lines = [
            line(provider_npi=f"{1000000000 + self.dice.randrange(3)}", provider_fees=self.dice.randrange(10_000) / 100)
            for _ in range(self.dice.randint(1, 3))
        ]
        claim = new_claim(*lines, number=number)
        async with self._connection.transaction():
            outcomes, _ = await batch.store(self._connection, [claim], 3600)
        if isinstance(outcomes[claim.id], batch.Accepted):
            self.claims[claim.id] = claim.content.net_fee

    async def _redrive(self) -> None:
        query = (
            "SELECT id FROM dead_letter WHERE state IN ('reversed', 'waiting') AND claim_id = ANY($1) "
            "ORDER BY claim_id LIMIT 1"
        )
        letter = await self._connection.fetchval(query, list(self.claims))
        if letter:
            with suppress(Problem):
                await queue.redrive(self._connection, letter, "simulation")

    def _choices(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """Everything that may happen now, with its weight."""
        ready = [one for one in self._actors.values() if one.request is None and one.owner not in self._stalled]
        owners = sorted({actor.owner for actor in self._actors.values()})
        choices: list[tuple[float, Callable[[], Awaitable[None]]]] = []
        choices += [(4.0, lambda actor=actor: self._release(actor)) for actor in ready]  # type: ignore[misc]
        choices += [(3.0, lambda one=one: self._deliver(one)) for one in self._requests]  # type: ignore[misc]
        choices += [(0.5, lambda one=one: self._lose(one)) for one in self._requests]  # type: ignore[misc]
        choices += [(0.7, lambda one=one: self._time_out(one)) for one in self._requests]  # type: ignore[misc]
        choices += [(0.3, lambda owner=owner: self._kill(owner)) for owner in owners]  # type: ignore[misc]
        choices += [(self._stall_weight, lambda owner=owner: self._stall(owner)) for owner in owners]  # type: ignore[misc]
        choices.append((1.5, lambda: self._pass(self.dice.choice([0.1, 1.0, 3.0, 6.0, 11.0]))))
        choices.append((1.0, self._redrive))
        if len(self.claims) < self._most_claims:
            choices.append((1.5, self._submit))
        if len(set(owners) - self._stalled) < WORKERS:
            choices.append((2.0, self._start_worker if self.dice.random() < 0.7 else self._start_publisher))
        return choices

    # --- the story ---

    def _tell(self, what: str) -> None:
        if self._telling:
            sys.stdout.write(f"{what}\n")

    async def run(self) -> "Simulation":
        """Lives through the seed, lets it become quiet, and checks every invariant; raises Violation."""
        await self._connection.execute(VIRTUAL_TIME)
        await self._pass(self.seed % 1000)
        try:
            for _ in range(STEPS):
                weights, choices = zip(*self._choices(), strict=True)
                number = self.dice.choices(range(len(choices)), weights)[0]
                self._tell(
                    f"{self.now:8.1f} s  choice {number} of {len(choices)}, {len(self._requests)} requests on their way"
                )
                await choices[number]()
            await self._become_quiet()
            await check(self._connection, self._store, self.claims, self.hub.delivered, f"seed {self.seed}")
            for request in self._requests:  # whatever was still on its way comes after the end, and changes nothing
                self._handled(request)
            await check(self._connection, self._store, self.claims, self.hub.delivered, f"seed {self.seed}")
        finally:
            for owner in {actor.owner for actor in self._actors.values()}:
                await self._kill(owner)
            self._store.close()
        return self

    async def _become_quiet(self) -> None:
        """No more faults: those who live go on, a fresh worker and publisher do the rest; late requests stay late."""
        self.quiet = True
        late = list(self._requests)
        self._requests.clear()
        for request in late:
            await self._time_out(request)
        await self._start_worker()
        await self._start_publisher()
        for _ in range(200):
            await self._pass(40.0)
            for _ in range(30):
                for request in list(self._requests):
                    await self._deliver(request)
                for actor in [one for one in self._actors.values() if one.request is None]:
                    await self._release(actor)
            if not await is_open(self._connection):
                break
        self._requests = late


async def _forget(work: Awaitable[object]) -> None:
    await work


async def simulate(database_url: str, seeds: Sequence[int], *, telling: bool = False) -> int:
    """Runs the seeds one after the other; how many claims lived through them. Raises Violation, or sqlite3.Error."""
    connection = await db.connect_patiently(database_url)
    claims = 0
    try:
        for seed in seeds:
            claims += len((await Simulation(seed, connection, telling=telling).run()).claims)
    finally:
        connection.terminate()
    return claims


if __name__ == "__main__":
    try:
        asked = [int(word) for word in sys.argv[1:] if word != "--tell"]
        asyncio.run(simulate(db.database_url(settings.load().storage), asked, telling="--tell" in sys.argv))
    except (Violation, sqlite3.Error) as error:
        sys.exit(str(error))
