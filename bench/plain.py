"""`python -m bench.plain PORT DATABASE_URL`: the plain way of writing the intake, to compare with.

FastAPI takes the body as a Pydantic model, SQLModel objects go into the session by `add_all`, and each request commits.
It writes the rows that the service writes (claim, lines, payment, event, totals) into the same tables, and answers the
same. It is no toy: one pooled engine, uvloop, no access log, totals in NPI order so that requests do not deadlock. It
does without keys, aliases, CSV, reports of all faults, limits, metrics and logs, which the service has.
"""

import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field, PlainSerializer
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from project.claims.fees import line_net_fee
from project.claims.models import Claim, ClaimEvent, ClaimLine, Payment
from project.ids import born_at, new_id, rfc3339
from project.providers.models import ProviderNetFee

POOL = 32
Amount = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2), PlainSerializer(float, when_used="json")]
Money = Annotated[Decimal, PlainSerializer(float, when_used="json")]


class LineIn(BaseModel):
    """A line as it comes."""

    service_dttm: datetime
    submitted_proc: str = Field(pattern="^D[0-9]{4}$")
    quadrant: str | None = None
    group_id: str = Field(min_length=1, max_length=64)
    subscriber_id: str = Field(min_length=1, max_length=64)
    provider_npi: str = Field(pattern="^[0-9]{10}$")
    provider_fees: Amount
    allowed_fees: Amount
    member_co_ins: Amount
    member_co_pay: Amount


def net_fee(line: LineIn) -> Decimal:
    """Of a line."""
    return line_net_fee(line.provider_fees, line.allowed_fees, line.member_co_ins, line.member_co_pay)


class LineOut(LineIn):
    """A line as it leaves."""

    line_no: int
    net_fee: Money


class ClaimOut(BaseModel):
    """A claim as it leaves."""

    id: UUID
    claim_number: str | None
    net_fee: Money
    status: str
    received_at: str
    warnings: list[Any]
    lines: list[LineOut]


def create_app(database_url: str) -> FastAPI:
    """The service over this database."""
    engine = create_async_engine(database_url, pool_size=POOL, max_overflow=0)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/claims", status_code=201)
    async def post_claim(lines: Annotated[list[LineIn], Field(min_length=1, max_length=10_000)]) -> ClaimOut:
        claim_id, now = new_id(), datetime.now(UTC)
        claim_fee = sum((net_fee(line) for line in lines), Decimal("0.00"))
        claim = Claim(id=claim_id, client="local", net_fee=claim_fee, line_count=len(lines), status="accepted")
        rows = [
            ClaimLine(claim_id=claim_id, line_no=number, net_fee=net_fee(line), **line.model_dump())
            for number, line in enumerate(lines, 1)
        ]
        event = ClaimEvent(
            claim_id=claim_id,
            seq=1,
            at=now,
            id=new_id(),
            type="claim.accepted",
            actor="local",
            client="local",
            amount=claim_fee,
            line_count=len(lines),
        )
        payment = Payment(claim_id=claim_id, state="due", next_attempt_at=now)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            session.add_all([claim, *rows, payment, event])
            await session.flush()
            await session.execute(totals(lines))
            await session.commit()
        return ClaimOut(
            id=claim_id,
            claim_number=None,
            net_fee=claim_fee,
            status="accepted",
            received_at=rfc3339(born_at(claim_id)),
            warnings=[],
            lines=[
                LineOut(line_no=number, net_fee=net_fee(line), **line.model_dump())
                for number, line in enumerate(lines, 1)
            ],
        )

    return app


def totals(lines: list[LineIn]) -> Any:
    """The upsert of the running totals, in NPI order."""
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    counts: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        fees[line.provider_npi] += net_fee(line)
        counts[line.provider_npi] += 1
    rows = [{"provider_npi": npi, "net_fee": fees[npi], "line_count": counts[npi]} for npi in sorted(fees)]
    table = ProviderNetFee.__table__  # type: ignore[attr-defined]
    added = insert(table).values(rows)
    return added.on_conflict_do_update(
        index_elements=["provider_npi"],
        set_={
            "net_fee": table.c.net_fee + added.excluded.net_fee,
            "line_count": table.c.line_count + added.excluded.line_count,
        },
    )


if __name__ == "__main__":
    uvicorn.run(
        create_app(sys.argv[2].replace("postgresql://", "postgresql+asyncpg://", 1)),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
