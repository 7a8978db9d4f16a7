"""What becomes of leases, written in group commits: many outcomes, one transaction, each guarded by its lease.

Called by `worker`, which makes one Settler, and by the steps of `saga`, which give it outcomes. While one transaction
commits, the next batch fills. Repeating a settlement changes nothing, since it ends the lease that it needs, so a lost
COMMIT is simply sent again (and counted as fenced, if the first had come through); an outcome whose lease has run out
is dropped, because the payment is somebody else's by then.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from project import db
from project.claims.statements import TOTALS
from project.ids import new_id
from project.payments import statements
from project.payments.client import Due
from project.telemetry import saga_metrics as metrics
from project.telemetry.logs import where

_log = structlog.get_logger("settling")

BATCH = 128
BATCH_LINES = 10_000  # a dead letter or a reversal moves every line: 0.2 to 0.3 s for so many
AWAY_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Settled:
    """Payments has paid."""

    due: Due
    payment_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A call decided nothing; the next comes after `delay_s` seconds."""

    due: Due
    detail: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The call was never made, so the attempt does not count."""

    due: Due


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Refused or exhausted: a dead letter, and the claim is to be reversed."""

    due: Due
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class NotCancelled:
    """Payments has not confirmed the cancellation; asked again after `delay_s` seconds."""

    due: Due
    detail: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Reversed:
    """Payments has confirmed the cancellation: the claim and what it added to the totals go."""

    due: Due


Outcome = Settled | Failed | GivenBack | GivenUp | NotCancelled | Reversed


async def settle(connection: Any, outcomes: Sequence[Outcome]) -> set[UUID]:
    """Writes the outcomes inside the open transaction; the claims that they changed.

    A claim that is missing was fenced: another lease, a reversal or a redrive came first. Totals are locked last and
    in NPI order, as in intake.
    """
    of_kind: defaultdict[type[Outcome], list[Any]] = defaultdict(list)
    for outcome in outcomes:
        of_kind[type(outcome)].append(outcome)
    changed: set[UUID] = set()
    for kind, statement, columns in _STATEMENTS:
        if same := of_kind.get(kind):
            rows = await connection.fetch(statement, *_guards(same), *columns(same))
            changed.update(row[0] for row in rows)
    if cancelled := of_kind.get(Reversed):
        changed |= await _reverse(connection, cancelled)
    return changed


def _guards(outcomes: Sequence[Outcome]) -> tuple[list[Any], ...]:
    leases = [outcome.due for outcome in outcomes]
    return (
        [lease.claim_id for lease in leases],
        [lease.redrive_no for lease in leases],
        [lease.lease_no for lease in leases],
        [new_id() for _ in leases],
    )


def _retry_columns(outcomes: Sequence[Failed | NotCancelled]) -> tuple[list[Any], ...]:
    return [one.detail for one in outcomes], [timedelta(seconds=one.delay_s) for one in outcomes]


_STATEMENTS: tuple[tuple[type[Outcome], str, Callable[[Any], tuple[list[Any], ...]]], ...] = (
    (Settled, statements.PAID, lambda paid: ([one.payment_id for one in paid],)),
    (Failed, statements.FAILED, _retry_columns),
    (GivenBack, statements.GIVEN_BACK, lambda _: ()),
    (GivenUp, statements.GIVEN_UP, lambda up: ([one.reason for one in up], [one.detail for one in up])),
    (NotCancelled, statements.NOT_CANCELLED, _retry_columns),
)


async def _reverse(connection: Any, cancelled: Sequence[Reversed]) -> set[UUID]:
    await connection.fetch(statements.LOCK_NUMBERS, [one.due.claim_id for one in cancelled])
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    lines: defaultdict[str, int] = defaultdict(int)
    gone = await connection.fetch(statements.REVERSED, *_guards(cancelled))
    for _, npi, net_fee, count in gone:
        fees[npi] -= net_fee
        lines[npi] -= count
    npis = sorted(fees)
    await connection.fetch(TOTALS, npis, [fees[npi] for npi in npis], [lines[npi] for npi in npis])
    return {row[0] for row in gone}


class _Entry:
    """An outcome that waits for its commit; past `expires` (the loop's clock) its lease is gone."""

    __slots__ = ("changed", "expires", "outcome")

    def __init__(self, outcome: Outcome, expires: float) -> None:
        self.outcome = outcome
        self.expires = expires
        self.changed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Settler:
    """The queue of outcomes, the task that commits them, and its connection. One for each worker."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connection = db.Reconnecting(connect)
        self._waiting: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._away = False

    def start(self) -> None:
        """Starts the writer; the database need not be there yet."""
        self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Ends the writer. Whoever still waits for it is told that nothing changed."""
        if self._writer:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        self._connection.drop()

    async def submit(self, outcome: Outcome, expires: float) -> bool:
        """True once the outcome is durably written; False when it changed nothing, or `expires` came first."""
        entry = _Entry(outcome, expires)
        self._waiting.append(entry)
        self._wake.set()
        return await entry.changed

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._commit(self._take())

    def _take(self) -> list[_Entry]:
        """What waits, up to a batch's size; at least one, however large."""
        taken: list[_Entry] = []
        lines = 0
        while self._waiting and len(taken) < BATCH and lines < BATCH_LINES:
            taken.append(self._waiting.popleft())
            lines += taken[-1].outcome.due.line_count
        return taken

    async def _commit(self, entries: Sequence[_Entry]) -> None:
        """Brings a batch to its end. Tried again while the database is away; one by one after a statement's error."""
        while entries := self._unexpired(entries):
            try:
                changed = await self._transaction(entries)
            except Exception as error:  # noqa: BLE001  sorted below: the database's state, or one statement's fault
                away = db.is_away(error) or not self._connection.is_open
                self._connection.drop()
                self._tell(error, away, len(entries))
                if isinstance(error, TimeoutError) and len(entries) > 1:  # too much at once, or a database that hangs
                    middle = len(entries) // 2
                    await self._commit(entries[:middle])
                    await self._commit(entries[middle:])
                    return
                if away or isinstance(error, asyncpg.TransactionRollbackError):
                    await asyncio.sleep(AWAY_PAUSE_S)
                elif len(entries) > 1:
                    for entry in entries:
                        await self._commit([entry])
                    return
                else:
                    entries[0].changed.set_result(False)
                    return
            else:
                for entry in entries:
                    entry.changed.set_result(entry.outcome.due.claim_id in changed)
                return

    def _tell(self, error: Exception, away: bool, outcomes: int) -> None:
        metrics.SETTLE_FAILURES.labels("database_away" if away else "statement").inc()
        if not (away and self._away):  # told once, not five times a second
            _log.warning("database_away" if away else "settle_failed", error=where(error), outcomes=outcomes)
        self._away = away

    async def _transaction(self, entries: Sequence[_Entry]) -> set[UUID]:
        connection = await self._connection.get()
        async with connection.transaction():
            changed = await settle(connection, [entry.outcome for entry in entries])
        if self._away:
            _log.info("database_back")
            self._away = False
        metrics.SETTLE_BATCH.observe(len(entries))
        return changed

    @staticmethod
    def _unexpired(entries: Sequence[_Entry]) -> list[_Entry]:
        now = asyncio.get_running_loop().time()
        for entry in entries:
            if entry.expires <= now and not entry.changed.done():
                entry.changed.set_result(False)
        return [entry for entry in entries if not entry.changed.done()]
