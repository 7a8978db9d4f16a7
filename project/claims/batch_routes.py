"""POST /claims/batch: many claims in one request, each of which is stored, or not, by itself. Made by `app`.

The body is read whole. Then its rows are taken a slice at a time: read beside the event loop, handed to the ledger,
answered in order. While a slice is being stored the next is read, as far as there is room (`room`); while the client
does not take its answer, one further slice is at most (docs/decisions/0019-batch.md).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, TypeVarTuple
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Match
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from project import db
from project.claims import answers, batch_rows, batch_schemas, body, head, queries
from project.claims.batch import Accepted, NewClaim, NumberTaken, Outcome, Replayed
from project.claims.batch_rows import Place, Sender, Slice
from project.claims.ledger import Ledger
from project.claims.models import Claim
from project.claims.queries import Reversal
from project.claims.room import Room
from project.claims.routes import PARSE_ASIDE_BYTES
from project.claims.rules import Fault
from project.claims.schemas import InvalidClaim
from project.errors import DatabaseAway, OutcomeUnknown, Overloaded, Problem
from project.openapi import problems
from project.security.door import GuardedRoute, caller_of, needs
from project.security.scopes import Scope
from project.settings import Settings
from project.telemetry import metrics
from project.telemetry.http import tell
from project.telemetry.logs import where

T = TypeVar("T")
Given = TypeVarTuple("Given")

_log = structlog.get_logger("batch")

MEDIA = {"application/x-ndjson": "json"}
LARGEST_AT_ONCE = 2  # bodies of MAX_BATCH_BYTES in a process, or as many smaller ones as have no more bytes
# Of batches, in the ledger of a process. A single claim that comes in between waits for two commits of half as many.
LINES_AT_ONCE = 10_000
SLICES_AHEAD = 16  # of a batch, that are read before the answer to an earlier one is known
ANSWERED_WITHIN_S = 600.0  # a client that takes its answer slowly keeps its body in our memory no longer
FULL_WAIT_S = 4.5  # for single claims to leave the ledger some room
FULL_POLL_S = 0.02
LONGEST_KEY = 255 - len(f"/{batch_rows.MAX_ROWS}")


@dataclass(slots=True)
class _Batch:
    """One batch that is being answered. Its first `seen` rows are taken; `ended` is why no others will be."""

    content: bytes
    places: Sequence[Place]
    sender: Sender
    until: float
    seen: int = 0
    accepted: int = 0
    ended: Problem | None = None

    @property
    def is_through(self) -> bool:
        """Whether no row is left."""
        return self.seen == len(self.places)

    def forget(self) -> None:
        """Lets go of the body, though some of its claims may still be on their way."""
        self.content, self.places = b"", ()


class BatchRoutes:
    """What the route needs, and how it answers.

    `aside` is where large things are read, one after the other; `is_leaving` tells that the process is to stop.
    """

    def __init__(
        self,
        ledger: Ledger,
        engine: AsyncEngine,
        chosen: Settings,
        aside: ThreadPoolExecutor,
        is_leaving: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._settings = settings = chosen.intake
        self._aside = aside
        self._is_leaving = is_leaving
        self._most_at_once = max(1, chosen.limits.max_requests_in_hand // 4)
        self._in_hand = 0
        # The largest may take its time at the same pace as the largest claim.
        timeout_s = chosen.limits.body_timeout_s * max(1.0, settings.max_batch_bytes / settings.max_body_bytes)
        self._bodies = body.Arriving(LARGEST_AT_ONCE * settings.max_batch_bytes, timeout_s)
        self._room = Room(max(1, min(LINES_AT_ONCE, settings.intake_queue_lines // 2)))
        self._storing: set[asyncio.Task[bytes]] = set()

    async def post_batch(self, request: Request) -> Response:
        """Takes in many claims, each by itself."""
        told = head.read(request.scope["headers"])
        head.media_type(told, MEDIA)
        packed = head.is_packed(told)
        sender = Sender(caller_of(request).name, _key_of(told), request.scope["traceparent"])
        most = self._settings.max_batch_bytes
        content = await body.read(request.receive, head.content_length(told), most, self._bodies)
        if self._in_hand >= self._most_at_once:
            raise Overloaded("too many batches are in hand; nothing was stored")
        with ExitStack() as held:
            self._in_hand += 1
            held.callback(self._one_less)
            self._hold(len(content), held)
            if packed:
                arrived = len(content)
                content = await self._beside(body.unpacked, content, most)
                self._hold(max(0, len(content) - arrived), held)
            places = await self._beside_if_large(len(content), batch_rows.find_rows, content)
            batch = _Batch(content, places, sender, asyncio.get_running_loop().time() + ANSWERED_WITHIN_S)
            held.callback(batch.forget)
            held.callback(lambda: tell(request, rows=len(places), accepted=batch.accepted))
            return _Answer(self._answers(batch), held.pop_all())

    def _hold(self, size: int, held: ExitStack) -> None:
        held.callback(self._bodies.let_go, self._bodies.hold(0, size))

    def _one_less(self) -> None:
        self._in_hand -= 1

    async def _beside(self, function: Callable[[*Given], T], *given: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._aside, function, *given)

    async def _beside_if_large(self, size: int, function: Callable[[*Given], T], *given: *Given) -> T:
        return await self._beside(function, *given) if size > PARSE_ASIDE_BYTES else function(*given)

    async def _answers(self, batch: _Batch) -> AsyncGenerator[bytes, None]:
        """The answers to all rows in their order. Whoever stops asking for them stops the batch, but for what is
        being stored already.
        """
        storing: deque[asyncio.Task[bytes]] = deque()
        while not (batch.is_through or self._is_over(batch)):
            async with _waited_for(self._take(batch)) as taking:
                while not taking.done():
                    await asyncio.wait([taking, *islice(storing, 1)], return_when=asyncio.FIRST_COMPLETED)
                    if storing and storing[0].done():  # told at once, though the next slice's turn may be far
                        yield storing.popleft().result()
            if (task := taking.result()) is None:
                break
            storing.append(task)
            while storing and (storing[0].done() or len(storing) > SLICES_AHEAD):
                yield await _result(storing.popleft())
        while storing:
            yield await _result(storing.popleft())
        while batch.ended is not None and not batch.is_through:
            rows = range(batch.seen + 1, min(batch.seen + batch_rows.SLICE_ROWS, len(batch.places)) + 1)
            batch.seen = rows[-1]
            yield b"".join(batch_rows.problem(row, batch.ended) for row in rows)

    def _is_over(self, batch: _Batch) -> bool:
        """Whether the rows that are left must be refused unseen."""
        if batch.ended is None and self._is_leaving():
            batch.ended = Overloaded("the service is shutting down; nothing was stored")
        elif batch.ended is None and asyncio.get_running_loop().time() > batch.until:
            batch.ended = Overloaded("the batch has had its time; nothing was stored")
        return batch.ended is not None

    async def _take(self, batch: _Batch) -> asyncio.Task[bytes] | None:
        """Reads the next slice in its turn; the task that stores and answers it. None if its turn does not come."""
        first = batch.seen + 1
        size = len(batch.content) - batch.places[batch.seen][0]
        try:
            async with self._room.turn():
                if self._is_over(batch):
                    return None
                read = (batch.content, batch.places, first, batch.sender, self._settings)
                made = await self._beside_if_large(size, batch_rows.read, *read)
                self._room.take(made.lines)
        except Problem as refusal:
            batch.ended = refusal
            return None
        batch.seen = made.rows[-1][0]
        task = asyncio.create_task(self._store(batch, made))
        self._storing.add(task)
        task.add_done_callback(self._stored)
        return task

    def _stored(self, task: asyncio.Task[bytes]) -> None:
        self._storing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("batch_slice_failed", error=where(error))

    async def _store(self, batch: _Batch, made: Slice) -> bytes:
        """Stores what is to be stored; the answers to all rows of the slice."""
        failure: Problem | None = None
        try:
            for rule, count in made.refused.items():
                metrics.CLAIMS_REFUSED.labels(rule).inc(count)
            outcomes: list[Outcome] = []
            for portion in self._portions(made.claims):
                told = await self._submit(portion) if failure is None else [failure] * len(portion)
                failure = failure or next(filter(None, map(_failure_of_all, told)), None)
                outcomes += told
            batch.accepted += sum(isinstance(outcome, Accepted) for outcome in outcomes)
            batch.ended = batch.ended or failure
            replayed = [outcome.claim_id for outcome in outcomes if isinstance(outcome, Replayed)]
            found = await self._find(batch.sender.client, replayed) if replayed else {}
            return b"".join(_lines(made, outcomes, found))
        finally:
            self._room.give_back(made.lines, failure)

    def _portions(self, claims: Sequence[NewClaim]) -> Iterator[list[NewClaim]]:
        """The claims, so many at a time that they fit into the room."""
        portion: list[NewClaim] = []
        lines = 0
        for claim in claims:
            count = len(claim.content.lines)
            if portion and lines + count > self._room.most:
                yield portion
                portion, lines = [], 0
            portion.append(claim)
            lines += count
        if portion:
            yield portion

    async def _submit(self, claims: Sequence[NewClaim]) -> list[Outcome]:
        """As the ledger's own, but waits for room if single claims have filled the queue."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FULL_WAIT_S
        outcomes = await self._ledger.submit(claims)
        while any(isinstance(outcome, Overloaded) for outcome in outcomes) and loop.time() < until:
            await asyncio.sleep(FULL_POLL_S)
            full = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, Overloaded)]
            again = await self._ledger.submit([claims[at] for at in full])
            for at, outcome in zip(full, again, strict=True):
                outcomes[at] = outcome
        return outcomes

    async def _find(self, client: str, replayed: Sequence[UUID]) -> dict[UUID, Claim | Reversal | Problem]:
        """The claims that earlier requests have stored, or why they cannot be shown."""
        metrics.CLAIMS_REPLAYED.inc(len(replayed))
        try:
            found = await queries.find_replayed(self._engine, client, replayed)
        except (*db.AWAY, DBAPIError) as error:
            if not db.is_away(error):
                raise
            _log.warning("database_away", error=where(error))
            return dict.fromkeys(replayed, answers.not_shown())
        missing = dict.fromkeys(replayed, Problem(404, "Not Found", "there is no such claim"))
        return missing | found


class _Answer(StreamingResponse):
    """The rows of an answer. `held` is closed when it is out, or its client is gone."""

    media_type = "application/x-ndjson"

    def __init__(self, rows: AsyncGenerator[bytes, None], held: ExitStack) -> None:
        super().__init__(rows)
        self._rows = rows
        self._held = held

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Sends them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with self._held:
                await self._rows.aclose()  # a client that is gone leaves it in the middle of its work


@asynccontextmanager
async def _waited_for(work: Coroutine[None, None, T]) -> AsyncGenerator[asyncio.Task[T]]:
    """The work as a task, which ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


async def _result(task: asyncio.Task[bytes]) -> bytes:
    """What the task comes to. Whoever is ended while waiting for it does not end it."""
    await asyncio.wait([task])
    return task.result()


def _key_of(told: head.Head) -> str | None:
    key = head.idempotency_key(told)
    if key is not None and len(key) > LONGEST_KEY:
        raise Problem(
            400, "Bad Idempotency-Key", f"at most {LONGEST_KEY} characters, since each row's is a little longer"
        )
    return key


def _failure_of_all(outcome: Outcome) -> Problem | None:
    """What an outcome says about all claims that would come after it."""
    if isinstance(outcome, DatabaseAway | OutcomeUnknown):
        return DatabaseAway()
    return outcome if isinstance(outcome, Overloaded) else None


def _lines(
    made: Slice, outcomes: Sequence[Outcome], replayed: Mapping[UUID, Claim | Reversal | Problem]
) -> Iterator[bytes]:
    """The answers to the rows of a slice."""
    of_claims = iter(outcomes)
    for row, entry in made.rows:
        if isinstance(entry, bytes):
            yield entry
            continue
        match outcome := next(of_claims):
            case Accepted(claim_id):
                yield batch_rows.accepted(row, claim_id, entry.content.net_fee, entry.content.warnings)
            case Replayed(claim_id):
                yield _replayed_line(row, claim_id, replayed[claim_id])
            case NumberTaken(claim_id):
                yield batch_rows.problem(row, answers.not_stored(outcome), claim_id)
            case Problem():
                yield batch_rows.problem(row, outcome)
            case _:
                yield batch_rows.problem(row, answers.not_stored(outcome))


def _replayed_line(row: int, claim_id: UUID, found: Claim | Reversal | Problem) -> bytes:
    match found:
        case Claim():
            warnings = [Fault(**note) for note in found.warnings or ()]
            return batch_rows.accepted(row, claim_id, found.net_fee, warnings, replayed=True)
        case Reversal():
            return batch_rows.problem(row, answers.gone(found), claim_id)
        case _:
            return batch_rows.problem(row, found, claim_id)


class _WholePath(GuardedRoute):
    """A route that has its path to itself: another method is 405, and not a matter of /claims/{claim_id}."""

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        """Whether it is asked for, by whatever method."""
        match, child = super().matches(scope)
        return Match.FULL if match is Match.PARTIAL else match, child


def router(handlers: BatchRoutes) -> APIRouter:
    """The route over these handlers."""
    routes = APIRouter(tags=["claims"], route_class=_WholePath)
    routes.add_api_route(
        "/claims/batch",
        handlers.post_batch,
        methods=["POST"],
        summary="Take in many claims",
        response_class=Response,
        responses={
            200: batch_schemas.ANSWERED,
            **problems(400, 401, 403, 408, 413, 415, 503),
            422: {"model": InvalidClaim, "description": "No rows, or too many"},
        },
        **needs(Scope.CLAIMS_WRITE, batch_schemas.POST_BATCH),
    )
    return routes
