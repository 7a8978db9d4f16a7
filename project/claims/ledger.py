"""The one writer of claims: it puts many of them into one commit, and tells each caller what became of its own.

For a newcomer, in ten lines:
 1. `submit` appends a claim to a queue and waits for a future. The queue is bounded; past it the answer is Overloaded.
 2. One task, the writer, takes all that waits, stores it in one transaction (`batch.store`) and commits.
 3. While that commit is under way the next batch fills. No timer: an idle service commits a lone claim at once.
 4. Futures are settled after COMMIT was answered, never before: 201 means durable.
 5. Claims of one key in this process wait for the first of them; across processes the database decides.
 6. A batch that certainly rolled back is tried again, claim by claim if a statement failed: a bad claim fails alone.
 7. A COMMIT whose answer was lost is looked up by the claims' ids, which were fixed before; else OutcomeUnknown.
 8. A caller that gives up (client gone, deadline) leaves the queue, or its result is dropped; its batch goes on.
 9. A caller never waits longer than WAIT_S: then it is DatabaseAway (certainly not stored) or OutcomeUnknown.
10. `close` refuses new claims, waits for those in hand, and ends the writer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from project import db
from project.claims import batch as batches
from project.claims import statements
from project.claims.batch import Accepted, Busy, KeyReused, NewClaim, Outcome, Replayed
from project.errors import DatabaseAway, OutcomeUnknown, Overloaded, Problem
from project.telemetry import metrics
from project.telemetry.logs import where

_log = structlog.get_logger("ledger")

WAIT_S = 4.5  # every answer is due within five seconds
BUSY_WAIT_S = 2.0  # how long a repeat waits for the request that holds its key or number
BUSY_POLL_S = 0.02
RECONNECT_PAUSE_S = 0.05
BATCH_CLAIMS = 512
BATCH_LINES = 10_000


class _Entry:
    """A claim in the ledger's hands. `in_doubt`: a transaction holds it, so giving up leaves its outcome open."""

    __slots__ = ("claim", "future", "in_doubt", "since")

    def __init__(self, claim: NewClaim, since: float) -> None:
        self.claim = claim
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.since = since
        self.in_doubt = False

    def settle(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class _LostCommit(Exception):
    """COMMIT was sent and no answer to it came."""

    def __init__(self, transaction_id: str | None) -> None:
        super().__init__(transaction_id)
        self.transaction_id = transaction_id


class Ledger:
    """The queue, the writer task and its connection. One for each web process, made and closed by `app`."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        *,
        queue_lines: int,
        retention_s: int,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        """`committed` is called after each commit that made payments due; it must return at once."""
        self._queue_lines = queue_lines
        self._retention_s = retention_s
        self._committed = committed
        self._waiting: deque[_Entry] = deque()
        self._pending: dict[_Entry, None] = {}  # in the order in which they came
        self._timer: asyncio.TimerHandle | None = None
        self._pending_lines = 0
        self._first_of_key: dict[tuple[str, str], _Entry] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._away = False
        self._begun: Any = None  # the connection on which the next batch's transaction is open already
        self._connection = db.Reconnecting(connect)
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether a claim that came now would be Overloaded."""
        return self._closing or self._pending_lines >= self._queue_lines

    def start(self) -> None:
        """Starts the writer; the database need not be there yet."""
        self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Refuses what comes from now on, finishes what is in hand, ends the writer."""
        self._closing = True
        while self._pending:
            await asyncio.wait([entry.future for entry in self._pending])
        if self._writer:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        self._connection.drop()

    async def submit(self, claims: Sequence[NewClaim]) -> list[Outcome]:
        """What became of each claim, in order. Never raises for the database: a Problem is an outcome too.

        Promises: Accepted only after a durable commit; DatabaseAway, Overloaded, Busy, KeyReused and NumberTaken only
        if nothing of the claim is stored; all of it within WAIT_S seconds.
        """
        if len(claims) == 1:
            return [await self._submit_one(claims[0])]
        return await asyncio.gather(*(self._submit_one(claim) for claim in claims))

    async def _submit_one(self, claim: NewClaim) -> Outcome:
        since = asyncio.get_running_loop().time()
        shared = await self._outcome_of_twin(claim) if claim.key is not None else None
        if shared is not None:
            return shared
        if self._closing:
            return Overloaded("the service is shutting down; nothing was stored")
        if self._pending_lines >= self._queue_lines:
            return Overloaded()
        return await self._enqueue(claim, since).future

    async def _outcome_of_twin(self, claim: NewClaim) -> Outcome | None:
        """What the claim of the same key in this process came to; None when there is none (any more) to wait for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BUSY_WAIT_S
        while twin := self._first_of_key.get((claim.client, claim.key or "")):
            await asyncio.wait([twin.future], timeout=max(0.0, until - loop.time()))
            if not twin.future.done():
                return Busy()
            outcome = None if twin.future.cancelled() else twin.future.result()
            if isinstance(outcome, Accepted | Replayed):
                same = twin.claim.fingerprint == claim.fingerprint
                return Replayed(outcome.claim_id) if same else KeyReused()
            await asyncio.sleep(0)  # the twin failed and is about to leave; then the first to look takes its place
        return None

    def _enqueue(self, claim: NewClaim, since: float) -> _Entry:
        entry = _Entry(claim, since)
        self._pending[entry] = None
        self._look_at(since + WAIT_S)
        self._pending_lines += len(claim.content.lines)
        if claim.key is not None:
            self._first_of_key[claim.client, claim.key] = entry
        entry.future.add_done_callback(lambda _: self._forget(entry))
        self._requeue(entry)
        return entry

    def _look_at(self, deadline: float) -> None:
        """Sees to it that waits are ended then. One timer for all claims: nearly none waits so long, and a timer for
        each is worth 7 us (bench: 2 lines).
        """
        if self._timer is None or deadline < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(deadline, self._end_waits)

    def _end_waits(self) -> None:
        """Tells those whose time is up."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for entry in self._pending:
            if entry.since + WAIT_S > now:
                self._look_at(entry.since + WAIT_S)
            else:
                entry.settle(OutcomeUnknown(entry.claim.id) if entry.in_doubt else DatabaseAway())

    def _forget(self, entry: _Entry) -> None:
        del self._pending[entry]
        self._pending_lines -= len(entry.claim.content.lines)
        if not self._pending:
            metrics.QUEUE_CLAIMS.set(0)
        if entry.claim.key is not None:
            self._first_of_key.pop((entry.claim.client, entry.claim.key), None)

    def _requeue(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        self._wake.set()

    async def _write(self) -> None:
        """The writer: batch after batch until it is cancelled. Nothing that a batch raises ends it."""
        while True:
            await self._wake.wait()
            entries = self._take()
            if not entries:
                self._wake.clear()
                await self._end_unused()
                continue
            try:
                await self._commit(entries)
            except Exception as error:  # noqa: BLE001  a defect must cost this batch only, not the writer
                _log.error("batch_failed", error=where(error), claims=len(entries))
                self._connection.drop()
                for entry in entries:
                    entry.settle(OutcomeUnknown(entry.claim.id))

    def _take(self) -> list[_Entry]:
        """All that waits, up to a batch's size; a second claim of one number waits for the next batch."""
        taken: list[_Entry] = []
        later: list[_Entry] = []
        numbers: set[tuple[str, str]] = set()
        lines = 0
        while self._waiting and lines < BATCH_LINES and len(taken) < BATCH_CLAIMS:
            entry = self._waiting.popleft()
            if entry.future.done():
                continue
            if (number := entry.claim.content.claim_number) is not None:
                if (entry.claim.client, number) in numbers:
                    later.append(entry)
                    continue
                numbers.add((entry.claim.client, number))
            taken.append(entry)
            lines += len(entry.claim.content.lines)
        self._waiting.extendleft(reversed(later))
        return taken

    async def _commit(self, entries: Sequence[_Entry]) -> None:
        """Brings a batch to an end: every entry settled, parked for another try, or given up by its caller."""
        while entries := [entry for entry in entries if not entry.future.done()]:
            try:
                outcomes = await self._transaction(entries)
            except _LostCommit as lost:
                outcomes = await self._look_up(entries, lost.transaction_id)
            except Exception as error:  # noqa: BLE001  sorted below: the database's state, or one statement's fault
                away = await self._rolled_back(error)
                if away:
                    await asyncio.sleep(RECONNECT_PAUSE_S)
                elif len(entries) > 1:
                    for entry in entries:
                        await self._commit([entry])
                    return
                elif not isinstance(error, asyncpg.TransactionRollbackError):
                    entries[0].settle(Problem(500, "Internal Server Error", "nothing was stored"))
                continue
            self._settle(entries, outcomes)
            entries = [entry for entry in entries if entry.claim.id not in outcomes]

    async def _transaction(self, entries: Sequence[_Entry]) -> dict[UUID, Outcome]:
        """One batch, one transaction. Raises _LostCommit when COMMIT was sent and not answered; else, on any error,
        nothing is stored.
        """
        connection = await self._connection.get()
        # Whoever gave up while we connected was told that nothing is stored, and so it must be.
        entries = [entry for entry in entries if not entry.future.done()]
        if not entries:
            return {}
        self._mark(entries, in_doubt=True)
        started = time.perf_counter()
        if self._begun is not connection:
            await connection.execute("BEGIN")
        self._begun = None
        claims = [entry.claim for entry in entries]
        outcomes, transaction_id = await batches.store(connection, claims, self._retention_s)
        # Who waits already would wait for a BEGIN too, behind the answers to this batch (bench: 2 lines).
        chained = bool(self._waiting)
        try:
            tag = await connection.execute("COMMIT AND CHAIN" if chained else "COMMIT")
        except Exception as error:
            raise _LostCommit(transaction_id) from error
        if tag != "COMMIT":
            raise asyncpg.TransactionRollbackError("COMMIT was answered by a rollback")
        self._begun = connection if chained else None
        if self._away:
            _log.info("database_back")
            self._away = False
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.BATCH_CLAIMS.observe(len(entries))
        metrics.QUEUE_CLAIMS.set(len(self._pending))
        return outcomes

    async def _end_unused(self) -> None:
        """Ends a transaction that was begun for claims whose callers have all given up since."""
        begun, self._begun = self._begun, None
        if begun is not None:
            try:
                await begun.execute("ROLLBACK")
            except Exception:  # noqa: BLE001  a connection that cannot even roll back is dropped, which does it too
                self._connection.drop()

    async def _rolled_back(self, error: Exception) -> bool:
        """After a certain rollback: makes the connection usable again; True when the database itself is the trouble."""
        away = not self._connection.is_open or db.is_away(error)
        if not away:
            try:
                await (await self._connection.get()).execute("ROLLBACK")
            except Exception:  # noqa: BLE001  a connection that cannot even roll back is dropped, which does it too
                away = True
        metrics.LEDGER_FAILURES.labels("database_away" if away else "statement").inc()
        if not (away and self._away):  # told once, not twenty times a second
            _log.warning("database_away" if away else "batch_rolled_back", error=where(error))
        self._away = away
        self._mark(list(self._pending), in_doubt=False)
        if away:
            self._connection.drop()
        return away

    async def _look_up(self, entries: Sequence[_Entry], transaction_id: str | None) -> dict[UUID, Outcome]:
        """The entries that a lost COMMIT has stored; those it has not may be stored again. All of them are
        OutcomeUnknown when the database does not say in time.
        """
        metrics.LEDGER_FAILURES.labels("lost_commit").inc()
        _log.warning("commit_lost", claims=len(entries))
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_S
        self._connection.drop()
        told = False
        while loop.time() < until:
            try:
                connection = await self._connection.get()
                if not await _still_runs(connection, transaction_id):
                    rows = await connection.fetch(statements.STORED, [entry.claim.id for entry in entries])
                    self._mark(entries, in_doubt=False)
                    return {row[0]: Accepted(row[0]) for row in rows}
            except Exception as error:  # noqa: BLE001  whatever it is, the question stays open
                if not told:  # once, not twenty times a second
                    _log.warning("commit_lookup_failed", error=where(error))
                told = True
                self._connection.drop()
            await asyncio.sleep(RECONNECT_PAUSE_S)
        return {entry.claim.id: OutcomeUnknown(entry.claim.id) for entry in entries}

    def _settle(self, entries: Sequence[_Entry], outcomes: dict[UUID, Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        accepted = [entry for entry in entries if isinstance(outcomes.get(entry.claim.id), Accepted)]
        if accepted:
            metrics.CLAIMS_ACCEPTED.inc(len(accepted))
            metrics.LINES_ACCEPTED.inc(sum(len(entry.claim.content.lines) for entry in accepted))
            self._committed()
        for entry in entries:
            outcome = outcomes.get(entry.claim.id)
            if isinstance(outcome, Busy) and now - entry.since < BUSY_WAIT_S:
                entry.in_doubt = False
                asyncio.get_running_loop().call_later(BUSY_POLL_S, self._requeue, entry)
            elif outcome is not None:
                entry.settle(outcome)

    @staticmethod
    def _mark(entries: Sequence[_Entry], *, in_doubt: bool) -> None:
        for entry in entries:
            entry.in_doubt = in_doubt


async def _still_runs(connection: Any, transaction_id: str | None) -> bool:
    """Whether the server still works on a transaction whose connection died; it could yet commit."""
    if transaction_id is None:
        return False
    try:
        return bool(await connection.fetchval(statements.STILL_RUNNING, transaction_id))
    except asyncpg.InvalidParameterValueError:
        return False  # an id that this server has not given out yet: a crash took the transaction with it
