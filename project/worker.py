"""The worker: `python -m project.worker` pays, reverses, publishes and keeps house. Started by the supervisor and by
`python -m project worker`; any number of workers share the work.

Two lanes take due payments and reversals off the queue. One worker leads (an advisory lock, held by a session): it
publishes events, deletes what has expired and shows the gauges of the database. Everything tries again for ever; what
the database does not hold as done is found again by whoever comes next.
"""

import asyncio
import gc
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvloop
from prometheus_client import REGISTRY

from project import cache, db, settings
from project.bell import listen
from project.engines import launch
from project.errors import ServiceError
from project.gauges import DatabaseGauges
from project.housekeeping import keep_house
from project.metrics_server import serving_metrics
from project.notifications.event_hub import open_hub
from project.notifications.publisher import Publisher
from project.payments import statements
from project.payments.breaker import Breaker, State
from project.payments.client import Due, PaymentsClient
from project.payments.lane import Lane
from project.payments.saga import Steps
from project.payments.settling import Failed, GivenUp, NotCancelled, Settler
from project.security.door import Door
from project.security.exposure import refuse_exposure_without_keys
from project.security.ring import KeyRing
from project.telemetry import logs, tracing
from project.telemetry import saga_metrics as metrics
from project.telemetry.logs import where

_log = structlog.get_logger("worker")

REVERSALS_AT_ONCE = 32
BREAKER_LOOK_S = 0.1
UNASKED_IS_NEWS_S = 30.0  # a payments service that is started along with us has answered by then
LEAD_LOCK = 7_260_417  # any constant that nobody else locks
LEAD_EVERY_S = 1.0
GAUGES_EVERY_S = 5.0
HOUSE_EVERY_S = 60.0
CANCEL_AGAIN_S = 0.5  # a cancelled publisher has been seen to go on: something below it had swallowed that

Connect = Callable[[], Awaitable[Any]]


class Worker:
    """All loops of one worker over one payments client."""

    def __init__(self, chosen: settings.Settings, client: PaymentsClient) -> None:
        url = db.database_url(chosen.storage)
        self._chosen = chosen
        self._client = client
        self._connect: Connect = lambda: db.connect(url)
        self._connect_to_queue: Connect = lambda: db.connect_to_queue(url)
        self._connect_patiently: Connect = lambda: db.connect_patiently(url)
        self._breaker = Breaker(unasked=True)
        self._settler = Settler(self._connect_to_queue)
        self._gauges = DatabaseGauges()
        dice = random.Random()  # noqa: S311  spreads retries, guards nothing
        clock = asyncio.get_running_loop().time
        self._steps = Steps(client, self._settler.submit, self._breaker, dice, clock, chosen.payments.payments_attempts)
        slots = chosen.payments.payments_concurrency
        admits = self._breaker.admits
        self._paying = Lane("pay", statements.LEASE_DUE, slots, self._connect_to_queue, self._pay, admits)
        self._reversing = Lane(
            "reverse", statements.LEASE_REVERSING, REVERSALS_AT_ONCE, self._connect_to_queue, self._reverse
        )
        redis_url = cache.redis_url(chosen.storage)
        self._publisher = Publisher(
            lambda: db.connect_to_outbox(url), lambda: open_hub(chosen.events, redis_url), f"/{chosen.logging.app_name}"
        )
        self._started = clock()
        metrics.BREAKER_STATE.set_function(self._breaker_state)
        REGISTRY.register(self._gauges)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then finishes the steps in hand."""
        self._settler.start()
        lanes = [asyncio.create_task(lane.run()) for lane in (self._paying, self._reversing)]
        beside = [
            asyncio.create_task(loop)
            for loop in (listen(self._connect, self._heard), self._watch_breaker(), self._take_the_lead())
        ]
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *lanes, *beside], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():  # a defect: whoever keeps the process starts a whole one again
            raise ServiceError("a loop of the worker has ended by itself")
        _log.info("stopping")
        for lane in (self._paying, self._reversing):
            lane.stop()
        await asyncio.gather(*lanes)
        await self._settler.close()
        await _cancelled(beside)

    def _heard(self) -> None:
        self._paying.wake()
        self._publisher.wake()

    async def _pay(self, due: Due, expires: float, called: Callable[[], None]) -> None:
        outcome = await self._steps.pay(due, expires, called)
        if isinstance(outcome, GivenUp):
            self._reversing.wake()
        elif isinstance(outcome, Failed):
            self._paying.wake_in(outcome.delay_s)
        self._publisher.wake()

    async def _reverse(self, due: Due, expires: float, called: Callable[[], None]) -> None:
        outcome = await self._steps.reverse(due, expires, called)
        if isinstance(outcome, NotCancelled):
            self._reversing.wake_in(outcome.delay_s)
        self._publisher.wake()

    def _breaker_state(self) -> int:
        """For the metric: -1 while payments has not answered yet and that is no news."""
        is_new = asyncio.get_running_loop().time() - self._started < UNASKED_IS_NEWS_S
        return -1 if self._breaker.is_unasked and is_new else self._breaker.state

    async def _watch_breaker(self) -> None:
        """Tells when the breaker opens and closes, and asks a service that failed whether it is back."""
        now = asyncio.get_running_loop().time
        was_open = False
        while True:
            if self._breaker.wants_probe(now()):
                try:
                    alive = await self._client.is_alive()
                except Exception as error:  # noqa: BLE001  as good as no answer
                    _log.error("probe_failed", error=where(error))
                    alive = False
                self._breaker.probed(alive, now())
                self._paying.wake()
            is_open = self._breaker.state is not State.CLOSED
            if is_open != was_open:
                _log.warning("payments_breaker_open") if is_open else _log.info("payments_breaker_closed")
                was_open = is_open
            await asyncio.sleep(BREAKER_LOOK_S)

    async def _take_the_lead(self) -> None:
        """Leads whenever nobody else does, for as long as the session that holds the lock lives."""
        session = db.Reconnecting(self._connect)
        try:
            while True:
                try:
                    connection = await session.get()
                    if await connection.fetchval("SELECT pg_try_advisory_lock($1)", LEAD_LOCK):
                        await self._lead(connection)
                except Exception as error:  # noqa: BLE001  the lead is lost, whatever it was; another may take it
                    _log.debug("not_leading", error=where(error))
                    session.drop()
                await asyncio.sleep(LEAD_EVERY_S)
        finally:
            session.drop()

    async def _lead(self, connection: Any) -> None:
        """Does what only one worker does, until the session is lost (then it raises) or this is cancelled."""
        _log.info("leading")
        duties = [
            asyncio.create_task(duty)
            for duty in (
                self._publisher.run(),
                self._again_and_again("gauges", self._gauges.refresh, GAUGES_EVERY_S),
                self._again_and_again("housekeeping", self._keep_house, HOUSE_EVERY_S),
            )
        ]
        try:
            while True:
                await asyncio.sleep(LEAD_EVERY_S)
                await connection.execute("SELECT 1")
        finally:
            await _cancelled(duties)
            self._gauges.forget()

    async def _keep_house(self, connection: Any) -> None:
        chosen = self._chosen
        deleted = await keep_house(connection, chosen.intake.idempotency_retention, chosen.worker.dead_letter_retention)
        if any(deleted.values()):
            _log.info("house_kept", **deleted)

    async def _again_and_again(self, name: str, duty: Callable[[Any], Awaitable[None]], every_s: float) -> None:
        """The duty on a connection of its own, every so many seconds, whatever happened the last time."""
        session = db.Reconnecting(self._connect_patiently)
        try:
            while True:
                try:
                    await duty(await session.get())
                except Exception as error:  # noqa: BLE001  the next turn comes soon
                    _log.debug("duty_failed", duty=name, error=where(error))
                    session.drop()
                await asyncio.sleep(every_s)
        finally:
            session.drop()


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels the tasks and waits until they have ended; again, since a library may swallow a cancellation."""
    while unfinished := [task for task in tasks if not task.done()]:
        for task in unfinished:
            task.cancel()
        await asyncio.wait(unfinished, timeout=CANCEL_AGAIN_S)


async def _run(chosen: settings.Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = db.database_url(chosen.storage)
    ring = KeyRing(lambda: db.connect(url))
    async with (
        serving_metrics(Door(ring), chosen.server.host, chosen.metrics_port),
        PaymentsClient(chosen.payments_url, chosen.payments) as client,
    ):
        ring.start()  # only now, since a process whose port is taken ends at once
        try:
            _log.info("started", app=chosen.logging.app_name, environment=chosen.logging.environment)
            gc.freeze()  # what was imported stays; to look it all over took 0.1 s each second or two (bench: saga)
            await Worker(chosen, client).run(stop)
        finally:
            await ring.close()
            await tracing.stop()


def work(chosen: settings.Settings) -> None:
    """Works until SIGTERM or SIGINT.

    Raises ServiceError, one line for a person, when METRICS_PORT is taken or strangers could connect without a key.
    """
    logs.configure(chosen.logging, "worker")
    launch.step_back()
    refuse_exposure_without_keys(chosen)
    tracing.start("claim_process-worker")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(chosen))
    _log.info("stopped")


if __name__ == "__main__":
    try:
        work(settings.load())
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
