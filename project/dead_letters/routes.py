"""GET and POST under /dead-letters, for operators: letters of all clients, subscriber ids masked. Made by `app`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from project import wire
from project.claims.answers import cursor_after, id_of_cursor
from project.claims.schemas import EXAMPLE_ID, LineAnswer
from project.dead_letters import queue
from project.dead_letters.models import DeadLetter
from project.ids import rfc3339
from project.openapi import CURSOR, problems
from project.security.door import GuardedRoute, caller_of, needs
from project.security.scopes import Scope
from project.telemetry.http import tell

MASK = "***"
CHANGES_AT_ONCE = 4
SLOT_WITHIN_S = 1.0

State = Literal["waiting", "reversed", "redriven", "discarded"]
Reason = Literal["refused", "exhausted"]


class ListedLetter(BaseModel):
    """What payments refused, without the claim itself. `net_fee` is USD."""

    id: str = Field(examples=[EXAMPLE_ID], json_schema_extra={"format": "uuid"})
    claim_id: str = Field(examples=[EXAMPLE_ID], json_schema_extra={"format": "uuid"})
    redrive_no: int = Field(examples=[0], description="0 for the first time, one more for each redrive")
    reason: Reason
    detail: str = Field(examples=["insufficient_funds"])
    attempts: int = Field(examples=[1])
    net_fee: float = Field(examples=[81.25], json_schema_extra={"multipleOf": 0.01})
    line_count: int = Field(examples=[1])
    state: State
    created_at: str = Field(examples=["2026-11-23T10:00:00.000Z"], json_schema_extra={"format": "date-time"})
    closed_at: str | None = Field(examples=[None])


class KeptClaim(BaseModel):
    """The claim in a letter; subscriber ids are masked."""

    claim_number: str | None
    lines: list[LineAnswer]


class Letter(ListedLetter):
    """A letter with its claim; null once that was sent again or discarded."""

    claim: KeptClaim | None


class LetterPage(BaseModel):
    """A page of letters, newest first."""

    items: list[ListedLetter]
    next_cursor: str | None


class RedrivenAnswer(BaseModel):
    """The claim is accepted again, under its own id."""

    claim_id: str = Field(examples=[EXAMPLE_ID], json_schema_extra={"format": "uuid"})
    redrive_no: int = Field(examples=[1])


class LettersQuery(BaseModel):
    """The filters of GET /dead-letters; another parameter is refused."""

    model_config = ConfigDict(extra="forbid")

    state: State | None = None
    reason: Reason | None = None
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(
        None, max_length=64, description="next_cursor of the page before", json_schema_extra=CURSOR
    )


class LetterRoutes:
    """What the routes need: reads over `engine`, changes over a connection of their own, and a bell for the worker."""

    def __init__(self, engine: AsyncEngine, connect: Callable[[], Awaitable[Any]], ring: Callable[[], None]) -> None:
        self._engine = engine
        self._connect = connect
        self._ring = ring
        self._slots = asyncio.Semaphore(CHANGES_AT_ONCE)

    async def get_letters(self, query: Annotated[LettersQuery, Query()]) -> Response:
        """Letters, newest first."""
        before = None if query.cursor is None else id_of_cursor(query.cursor)
        wanted = queue.Filter(query.state, query.reason)
        found = await queue.find_letters(self._engine, wanted, limit=query.limit + 1, before=before)
        page = found[: query.limit]
        more = cursor_after(page[-1].id) if len(found) > len(page) else None
        return wire.json_response({"items": [listed(letter) for letter in page], "next_cursor": more})

    async def get_letter(self, letter_id: UUID) -> Response:
        """One letter with its claim."""
        letter = await queue.find_letter(self._engine, letter_id)
        if letter is None:
            raise queue.not_found()
        return wire.json_response(shown(letter))

    async def redrive(self, request: Request, letter_id: UUID) -> Response:
        """Sends the claim again."""
        async with self._connection() as connection:
            again = await queue.redrive(connection, letter_id, caller_of(request).name, request.scope["traceparent"])
        self._ring()
        tell(request, claim=str(again.claim_id))
        return wire.json_response({"claim_id": str(again.claim_id), "redrive_no": again.redrive_no}, 202)

    async def discard(self, request: Request, letter_id: UUID) -> Response:
        """Gives the claim up for good and erases it."""
        async with self._connection() as connection:
            claim_id = await queue.discard(connection, letter_id, caller_of(request).name)
        tell(request, claim=str(claim_id))
        return await self.get_letter(letter_id)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection for one change; only a few at once, so that operators cannot use up the database's."""
        async with asyncio.timeout(SLOT_WITHIN_S):  # past it: 503, like every other wait for the database
            await self._slots.acquire()
        try:
            connection = await self._connect()
            try:
                yield connection
            finally:
                connection.terminate()
        finally:
            self._slots.release()


def listed(letter: DeadLetter) -> dict[str, Any]:
    """A letter as GET /dead-letters lists it."""
    return {
        "id": str(letter.id),
        "claim_id": str(letter.claim_id),
        "redrive_no": letter.redrive_no,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "net_fee": letter.amount,
        "line_count": letter.line_count,
        "state": letter.state,
        "created_at": rfc3339(letter.created_at),
        "closed_at": None if letter.closed_at is None else rfc3339(letter.closed_at),
    }


def shown(letter: DeadLetter) -> dict[str, Any]:
    """A letter with its claim, subscriber ids masked."""
    kept = letter.claim
    claim = kept and {
        "claim_number": kept["claim_number"],
        "lines": [
            {name: line[name] for name in LineAnswer.model_fields} | {"subscriber_id": MASK} for line in kept["lines"]
        ],
    }
    return {**listed(letter), "claim": claim}


def router(handlers: LetterRoutes) -> APIRouter:
    """The routes over these handlers."""
    routes = APIRouter(tags=["dead letters"], route_class=GuardedRoute)
    for method, path, handler, summary, status, model, errors in (
        ("GET", "/dead-letters", handlers.get_letters, "List dead letters, newest first", 200, LetterPage, (422, 503)),
        ("GET", "/dead-letters/{letter_id}", handlers.get_letter, "Look at one", 200, Letter, (404, 422, 503)),
        (
            "POST", "/dead-letters/{letter_id}/redrive", handlers.redrive, "Send its claim again",
            202, RedrivenAnswer, (404, 409, 422, 503),
        ),
        (
            "POST", "/dead-letters/{letter_id}/discard", handlers.discard, "Give its claim up and erase it",
            200, Letter, (404, 409, 422, 503),
        ),
    ):  # fmt: skip
        responses: dict[int | str, dict[str, Any]] = {status: {"model": model}, **problems(401, 403, *errors)}
        routes.add_api_route(
            path,
            handler,
            methods=[method],
            status_code=status,
            summary=summary,
            response_class=Response,
            responses=responses,
            **needs(Scope.OPERATE),
        )
    return routes
