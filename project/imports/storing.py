"""One chunk on its way into the tables: everything between BEGIN and COMMIT. Called by `run` alone.

The locks are taken in the order of `claims.batch`: claim numbers, the claims' own new rows, then the run's row, and
last the provider totals in NPI order. Claims that lose a number leave before anything of theirs is written.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from project.claims import copying
from project.claims import statements as claims
from project.claims.rules import Fault
from project.errors import ServiceError
from project.imports import statements
from project.imports.parsing import Parsed, Ready, totals_of
from project.imports.reading import Chunk
from project.imports.refusals import RefusedFile, refused_row
from project.imports.runs import Run

TAKEN = 409
COPY_BYTES = 256 * 1024

_TAKEN = Fault(None, "claim_number", "taken", "a claim of this number exists; nothing was stored")
_IN_PROGRESS = Fault(None, "claim_number", "in_progress", "a request with this number has not finished; send it again")


class NumbersBusy(Exception):
    """Somebody else is about to take a number of this chunk, or to leave it; nothing was stored, try again."""


class Moved(ServiceError):
    """The run is not where this process left it."""

    def __init__(self) -> None:
        super().__init__("somebody else has gone on with this import, or given it up; nothing was stored twice")


async def store(
    connection: Any,
    run: Run,
    chunk: Chunk,
    parsed: Parsed,
    refused_file: RefusedFile,
    header: str | None,
    *,
    wait_for_numbers: bool,
) -> Run:
    """Stores the chunk and moves the run on, in one transaction; the run as it is then.

    Raises NumbersBusy while `wait_for_numbers`; without it such claims are refused. On any error nothing is stored,
    unless it came from COMMIT: then the run's row tells.
    """
    await connection.execute("BEGIN")
    lost = await _take_numbers(connection, run.client, [one for one in parsed.ready if one.number is not None])
    if wait_for_numbers and None in lost.values():
        raise NumbersBusy
    won = [one for one in parsed.ready if one.piece not in lost]
    if won:
        await _copy(connection, copying.CLAIM, [one.claim for one in won])
        await _copy(connection, copying.EVENT, [one.event for one in won])
        await _copy(connection, copying.PAYMENT, [one.payment for one in won])
        await _copy(connection, copying.LINES, [one.lines for one in won])
    rows = _refused_rows(chunk, parsed, lost, header)
    refused_bytes = await asyncio.to_thread(refused_file.append, rows) if rows else refused_file.size
    moved = run.after(chunk.after, won, len(rows), refused_bytes)
    if not await connection.fetchval(statements.ADVANCE, *_advance(run, moved)):
        raise Moved
    if won:
        await connection.execute(statements.TOTALS, *(totals_of(won) if lost else parsed.totals))
    if await connection.execute("COMMIT") != "COMMIT":
        raise asyncpg.TransactionRollbackError("COMMIT was answered by a rollback")
    return moved


async def _take_numbers(connection: Any, client: str, numbered: Sequence[Ready]) -> dict[int, UUID | None]:
    """The claims that do not get their number, and who has it: nobody yet, if it is being taken just now."""
    if not numbered:
        return {}
    ordered = sorted(numbered, key=lambda one: one.number or "")
    numbers, clients = [one.number for one in ordered], [client] * len(ordered)
    rows = await connection.fetch(claims.NUMBERS, numbers, clients, [one.id for one in ordered])
    won = {str(row[0]) for row in rows}
    lost = [one for one in ordered if one.id not in won]
    if not lost:
        return {}
    rows = await connection.fetch(claims.NUMBERS_HELD, [one.number for one in lost], [client] * len(lost))
    holders = {row[0]: row[2] for row in rows}
    return {one.piece: holders.get(one.number) for one in lost}


async def _copy(connection: Any, table: tuple[str, tuple[str, ...]], rows: Sequence[bytes]) -> None:
    await connection.copy_to_table(table[0], columns=table[1], source=_portions(rows))


async def _portions(rows: Sequence[bytes]) -> AsyncIterator[bytes]:
    """The rows in writes of a size that a socket likes."""
    portion: list[bytes] = []
    size = 0
    for row in rows:
        portion.append(row)
        size += len(row)
        if size >= COPY_BYTES:
            yield b"".join(portion)
            portion, size = [], 0
    if portion:
        yield b"".join(portion)


def _refused_rows(chunk: Chunk, parsed: Parsed, lost: dict[int, UUID | None], header: str | None) -> list[bytes]:
    """In the file's order."""
    rows = {
        one.piece: refused_row(chunk, chunk.pieces[one.piece], one.status, one.faults, header) for one in parsed.refused
    }
    for place, holder in lost.items():
        fault = _IN_PROGRESS if holder is None else _TAKEN
        rows[place] = refused_row(chunk, chunk.pieces[place], TAKEN, [fault], header, holder)
    return [rows[place] for place in sorted(rows)]


def _advance(before: Run, after: Run) -> tuple[Any, ...]:
    at = after.at
    return (
        before.id,
        before.at.offset,
        at.offset,
        at.row,
        at.line,
        at.in_doubt,
        after.accepted - before.accepted,
        after.refused - before.refused,
        after.lines - before.lines,
        after.net_fee - before.net_fee,
        after.refused_bytes,
    )
