"""A lane takes due payments of one state off the queue and has a step made for each, so many at once. Made by `worker`.

The `payment` table is the queue. A lease outlasts everything that a step may do, is numbered, and fences what follows,
so a worker that was killed or stalled costs time and nothing else. No more is leased than can be called at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog

from project import db
from project.payments.client import Due
from project.telemetry import saga_metrics as metrics
from project.telemetry.logs import where

_log = structlog.get_logger("lane")

LEASE_S = 10.0  # more than a call (client.CALL_S) and its settlement together
POLL_S = 1.0  # behind every lost wake-up
# A row is due from the beginning of the transaction that made it: so much may come behind rows of a later moment.
LATE = timedelta(seconds=1)
SWEEP_S = 1.0  # how often what is older than that is looked for: expired leases, transactions that took long
FREE_FOR_A_LEASE = 0.125  # of the slots
STEPS_A_SLOT = 2  # as many outcomes as calls may wait for the database
AWAY_PAUSE_S = 0.5

Step = Callable[[Due, float, Callable[[], None]], Awaitable[object]]


async def lease(connection: Any, statement: str, limit: int, since: datetime | None = None) -> list[Due]:
    """Takes up to `limit` payments, due `since` then, for LEASE_S seconds and counts an attempt for each; commits at
    once.
    """
    rows = await connection.fetch(statement, limit, timedelta(seconds=LEASE_S), since)
    return [Due(row[0], row[1], row[2], row[3], row[4], row[5].encode(), row[6], row[7], row[8]) for row in rows]


class Lane:
    """One state's queue, its steps in flight, and the connection that leases.

    A slot is a call: it is free again when the step says that its call is over, while the outcome is still on its way
    into the database. `admits` tells how many of the free slots may be used now, given how many steps are in flight. A
    step gets the payment, the moment (the loop's clock) at which its lease ends, and what to call after its call.
    """

    def __init__(
        self,
        name: str,
        statement: str,
        slots: int,
        connect: Callable[[], Awaitable[Any]],
        step: Step,
        admits: Callable[[int, int], int] = lambda free, in_flight: free,
    ) -> None:
        self.name = name
        self._statement = statement
        self._slots = slots
        self._connection = db.Reconnecting(connect)
        self._step = step
        self._admits = admits
        self._steps: set[asyncio.Task[None]] = set()
        self._calling = 0
        self._in_flight = metrics.IN_FLIGHT.labels(name)
        self._wake = asyncio.Event()
        self._drained = True
        self._stopping = False
        self._away = False
        self._connected = False
        self._at_once = slots
        self._since: datetime | None = None
        self._sweep_at = 0.0

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    def wake_in(self, seconds: float) -> None:
        """Something will be due then."""
        asyncio.get_running_loop().call_later(seconds, self._wake.set)

    def stop(self) -> None:
        """Leases nothing from now on; `run` returns when the steps in flight are done."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Leases and steps until `stop`."""
        try:
            while not self._stopping:
                await self._fill()
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                self._wake.clear()
            if self._steps:
                await asyncio.wait(self._steps)
        finally:
            self._connection.drop()

    async def _fill(self) -> None:
        """Leases for the free slots that may be used now, and starts a step for each payment."""
        free = min(self._slots - self._calling, STEPS_A_SLOT * self._slots - len(self._steps))
        if free < self._slots * FREE_FOR_A_LEASE and not self._drained:
            return  # while there is a backlog a lease is worth its round trip only for several at once
        wanted = self._admits(free, len(self._steps))
        taken: Sequence[Due] = []
        if wanted > 0:
            expires = asyncio.get_running_loop().time() + LEASE_S  # from before the lease: never later than its end
            taken = await self._lease(min(wanted, self._at_once))
            self._calling += len(taken)
            for due in taken:
                step = asyncio.create_task(self._run_step(due, expires))
                self._steps.add(step)
                step.add_done_callback(self._finished)
            self._in_flight.set(len(self._steps))
        self._drained = len(taken) < wanted <= self._at_once

    def _finished(self, step: asyncio.Task[None]) -> None:
        self._steps.discard(step)
        self._in_flight.set(len(self._steps))
        self._wake_for_more()

    def _wake_for_more(self) -> None:
        if not self._drained:  # an empty queue is not asked again for each step that ends
            self._wake.set()

    async def _run_step(self, due: Due, expires: float) -> None:
        """Nothing that a step raises may end the lane: its lease runs out, and the payment is taken again."""
        calls = 1

        def called() -> None:
            nonlocal calls
            self._calling -= calls
            calls = 0
            self._wake_for_more()

        try:
            await self._step(due, expires, called)
        except Exception as error:  # noqa: BLE001  a defect must cost this attempt only
            _log.error("step_failed", lane=self.name, claim=str(due.claim_id), error=where(error))
        finally:
            called()

    async def _lease(self, limit: int) -> Sequence[Due]:
        now = asyncio.get_running_loop().time()
        since = self._since if now < self._sweep_at else None
        try:
            taken = await lease(await self._connection.get(), self._statement, limit, since)
        except Exception as error:  # noqa: BLE001  whatever it is, the next try is on a new connection
            self._connection.drop()
            if isinstance(error, TimeoutError):  # claims of very many lines, maybe: fewer at once
                self._at_once = max(1, self._at_once // 4)
            if not self._away:  # told once, not twice a second; at the start it is only late
                log = _log.warning if self._connected else _log.info
                log("database_away" if self._connected else "waiting_for_database", lane=self.name, error=where(error))
            self._away = True
            await asyncio.sleep(AWAY_PAUSE_S)
            return []
        if self._away:
            _log.info("database_back", lane=self.name)
            self._away = False
        self._connected = True
        if since is None:
            self._sweep_at = now + SWEEP_S
        if taken:
            self._since = min(due.due_at for due in taken) - LATE
        self._at_once = min(self._slots, 2 * self._at_once)
        return taken
