"""POST /claims and the reads of claims. Made by `app`; one way from here: intake (pure) -> ledger -> answer."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncEngine

from project import wire
from project.claims import answers, body, head, intake, queries, schemas
from project.claims.batch import Accepted, Columns, NewClaim, Outcome, Replayed, large_columns
from project.claims.intake import Refused, Unreadable
from project.claims.ledger import Ledger
from project.claims.lines import Line, ParsedClaim
from project.claims.models import Claim
from project.claims.rules import Fault
from project.errors import Overloaded, Problem
from project.ids import new_id
from project.openapi import ProblemBody, problems
from project.security.door import GuardedRoute, caller_of, needs
from project.security.scopes import Scope
from project.settings import IntakeSettings
from project.telemetry import metrics, tracing
from project.telemetry.http import tell

MEDIA = {"application/json": "json", "text/csv": "csv"}
# Parsing more than this takes long enough to hold up the other requests of the process; so does unpacking what may
# swell a thousandfold.
PARSE_ASIDE_BYTES = 128 * 1024
UNPACK_ASIDE_BYTES = 2 * 1024
# What waits for that is answered in time, one way or the other, and fits into memory.
ASIDE_WITHIN_S = 4.0
LARGEST_AT_ONCE = 8  # bodies of MAX_BODY_BYTES, or as many smaller ones as have no more bytes


class _TakenIn(NamedTuple):
    """What a body comes to: its claim, and what only some claims have (see `NewClaim`)."""

    content: ParsedClaim
    fingerprint: bytes
    columns: Columns | None


class ClaimRoutes:
    """What the claims' routes need, and how they answer. `body_timeout_s`: seconds for a body to arrive."""

    def __init__(self, ledger: Ledger, engine: AsyncEngine, settings: IntakeSettings, body_timeout_s: float) -> None:
        self._ledger = ledger
        self._engine = engine
        self._settings = settings
        # One thread, since each that computes takes its turns from the event loop.
        self.aside = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._bytes_aside = 0
        self._arriving = body.Arriving(LARGEST_AT_ONCE * settings.max_body_bytes, body_timeout_s)
        self._one_large_read = asyncio.Semaphore(1)

    async def post_claim(self, request: Request) -> Response:
        """Takes in one claim."""
        told = head.read(request.scope["headers"])
        kind = head.media_type(told, MEDIA)
        packed = head.is_packed(told)
        key = head.idempotency_key(told)
        received = await body.read(
            request.receive, head.content_length(told), self._settings.max_body_bytes, self._arriving
        )
        parsed, fingerprint, columns = await self._parsed(kind, received, packed=packed, keyed=key is not None)
        client, traceparent = caller_of(request).name, request.scope["traceparent"]
        claim = NewClaim(new_id(), client, parsed, key, fingerprint, traceparent, columns)
        with tracing.step("store claim", SpanKind.INTERNAL, claim__lines=len(parsed.lines)) as step:
            [outcome] = await self._ledger.submit([claim])
            if isinstance(outcome, Accepted | Replayed):
                step.tell(claim__id=str(outcome.claim_id))
                tell(request, claim=str(outcome.claim_id))
        return await self._answer(claim, outcome, minimal=head.prefers_minimal(told))

    async def _parsed(self, kind: str, received: bytes, *, packed: bool, keyed: bool) -> _TakenIn:
        try:
            if packed and len(received) <= UNPACK_ASIDE_BYTES:
                received, packed = body.unpacked(received, self._settings.max_unpacked_bytes), False
            if packed or len(received) > PARSE_ASIDE_BYTES:
                return await self._taken_in_aside(kind, received, packed, keyed)
            return self._taken_in(kind, received, packed, keyed)
        except Unreadable as unreadable:
            metrics.CLAIMS_REFUSED.labels("unreadable").inc()
            raise Problem(400, "Bad Request", str(unreadable), kind="/problems/unreadable") from None
        except Refused as refused:
            for rule in {fault.rule for fault in refused.faults}:
                metrics.CLAIMS_REFUSED.labels(rule).inc()
            raise Problem(
                422, "Invalid claim", "nothing was stored", kind="/problems/invalid-claim", errors=refused.faults
            ) from None

    def _taken_in(self, kind: str, received: bytes, packed: bool, keyed: bool) -> _TakenIn:
        """What the body comes to, with its fingerprint if it came with a key. Touches nothing that is shared."""
        limits = self._settings
        content = body.unpacked(received, limits.max_unpacked_bytes) if packed else received
        parsed = intake.parse(kind, content, limits.max_lines, limits.npi_check, limits.max_nesting)
        fingerprint = sha256(kind.encode() + b"\0" + content).digest() if keyed else b""
        return _TakenIn(parsed, fingerprint, large_columns(parsed))

    async def _taken_in_aside(self, kind: str, received: bytes, packed: bool, keyed: bool) -> _TakenIn:
        """The same for a large body, beside the event loop, one after the other."""
        most = LARGEST_AT_ONCE * self._settings.max_body_bytes
        if self._bytes_aside and self._bytes_aside + len(received) > most:
            raise _too_many_aside()
        self._bytes_aside += len(received)
        try:
            async with asyncio.timeout(ASIDE_WITHIN_S):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self.aside, self._taken_in, kind, received, packed, keyed)
        except TimeoutError:
            raise _too_many_aside() from None
        finally:
            self._bytes_aside -= len(received)

    async def _answer(self, claim: NewClaim, outcome: Outcome, *, minimal: bool) -> Response:
        match outcome:
            case Accepted():
                return _created(claim_answer(claim), claim.content.lines, minimal=minimal)
            case Replayed(claim_id):
                return await self._replayed(claim.client, claim_id, minimal=minimal)
            case Problem():
                raise outcome
            case _:
                raise answers.not_stored(outcome)

    async def _replayed(self, client: str, claim_id: UUID, *, minimal: bool) -> Response:
        metrics.CLAIMS_REPLAYED.inc()
        found = await queries.find_claim(self._engine, client, claim_id, self._one_large_read)
        if found is None:
            raise await self._missing(client, claim_id)
        claim, lines = found
        return _created(stored_answer(claim), lines, minimal=minimal, replayed=True)

    async def get_claim(self, request: Request, claim_id: UUID) -> Response:
        """A claim with its lines."""
        client = caller_of(request).sees
        found = await queries.find_claim(self._engine, client, claim_id, self._one_large_read)
        if found is None:
            raise await self._missing(client, claim_id)
        claim, lines = found
        tell(request, claim=str(claim_id))
        return wire.json_response({**stored_answer(claim), "lines": lines})

    async def _missing(self, client: str | None, claim_id: UUID) -> Problem:
        """Why there is no such claim: it was reversed, or never was."""
        reversal = await queries.find_reversal(self._engine, client, claim_id)
        return _not_found() if reversal is None else answers.gone(reversal)

    async def get_events(self, request: Request, claim_id: UUID) -> Response:
        """A claim's history, oldest first."""
        events = await queries.find_events(self._engine, caller_of(request).sees, claim_id)
        if not events:
            raise _not_found()
        tell(request, claim=str(claim_id))
        return wire.json_response({"items": [answers.event(event) for event in events]})

    async def get_claims(self, request: Request, query: Annotated[schemas.ClaimsQuery, Query()]) -> Response:
        """Claims, newest first. A traversal by cursor meets each claim that was there at its start once."""
        found = await queries.find_claims(
            self._engine,
            caller_of(request).sees,
            limit=query.limit + 1,  # one more tells whether there is a next page
            before=None if query.cursor is None else answers.id_of_cursor(query.cursor),
            **query.model_dump(exclude={"limit", "cursor"}),
        )
        page = found[: query.limit]
        return wire.json_response(
            {
                "items": [answers.claim(row.id, row.claim_number, row.net_fee, row.status) for row in page],
                "next_cursor": answers.cursor_after(page[-1].id) if len(found) > len(page) else None,
            }
        )


def router(handlers: ClaimRoutes) -> APIRouter:
    """The claims' routes over these handlers."""
    routes = APIRouter(tags=["claims"], route_class=GuardedRoute)
    routes.add_api_route(
        "/claims",
        handlers.post_claim,
        methods=["POST"],
        status_code=201,
        summary="Take in a claim",
        response_class=Response,
        responses={
            201: schemas.CREATED,
            **problems(400, 401, 403, 408, 409, 410, 413, 415, 503),
            422: {
                "model": schemas.InvalidClaim | ProblemBody,
                "description": "All faults of the claim, or a key's second body",
            },
        },
        **needs(Scope.CLAIMS_WRITE, schemas.POST_CLAIMS),
    )
    for path, handler, summary, model, errors in (
        ("/claims", handlers.get_claims, "List claims, newest first", schemas.ClaimPage, (422, 503)),
        ("/claims/{claim_id}", handlers.get_claim, "Look at a claim", schemas.ClaimAnswer, (404, 410, 422, 503)),
        ("/claims/{claim_id}/events", handlers.get_events, "A claim's history", schemas.EventList, (404, 422, 503)),
    ):
        responses: dict[int | str, dict[str, Any]] = {200: {"model": model}, **problems(401, 403, *errors)}
        if 410 in responses:
            responses[410] = {"model": schemas.ReversedClaim, "description": "The claim was reversed"}
        routes.add_api_route(
            path,
            handler,
            methods=["GET"],
            summary=summary,
            response_class=Response,
            responses=responses,
            **needs(Scope.CLAIMS_READ),
        )
    return routes


def claim_answer(claim: NewClaim) -> dict[str, Any]:
    """The answer for a claim that was accepted just now, without its lines."""
    content = claim.content
    answer = answers.claim(claim.id, content.claim_number, content.net_fee, "accepted")
    return {**answer, "warnings": content.warnings}


def stored_answer(row: Claim) -> dict[str, Any]:
    """The same for a stored claim."""
    answer = answers.claim(row.id, row.claim_number, row.net_fee, row.status)
    return {**answer, "warnings": [Fault(**note) for note in row.warnings or ()]}


def _created(answer: dict[str, Any], lines: Sequence[Line], *, minimal: bool, replayed: bool = False) -> Response:
    headers = {"Location": f"/claims/{answer['id']}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if minimal:
        headers["Preference-Applied"] = "return=minimal"
    else:
        answer["lines"] = lines
    return wire.json_response(answer, 201, headers)


def _too_many_aside() -> Problem:
    return Overloaded("too many large bodies wait to be read; nothing was stored")


def _not_found() -> Problem:
    return Problem(404, "Not Found", "there is no such claim")
