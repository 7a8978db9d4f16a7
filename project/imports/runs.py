"""The rows of import_run: which run goes on, which one begins, and who may. Called by `run`.

The right to import a file for a client is an advisory lock of the session, so it ends with the process that has it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from project.errors import ServiceError
from project.ids import new_id, rfc3339
from project.imports import statements
from project.imports.files import Origin
from project.imports.parsing import Ready
from project.imports.reading import Position
from project.imports.refusals import RefusedFile, path_for

# A server process that works for a dead client notices when its statement is done, and keeps the lock until then.
LOCK_WAIT_S = 3.0
LOCK_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """How far an import has come: `at` is the first place that is not done. `net_fee` is in USD."""

    id: UUID
    client: str
    state: str
    at: Position
    accepted: int
    refused: int
    lines: int
    net_fee: Decimal
    refused_path: Path
    refused_bytes: int

    def after(self, at: Position, won: Sequence[Ready], refused: int, refused_bytes: int) -> "Run":
        """The run once these claims are stored, and so many refused."""
        return replace(
            self,
            at=at,
            accepted=self.accepted + len(won),
            refused=self.refused + refused,
            lines=self.lines + sum(one.line_count for one in won),
            net_fee=self.net_fee + sum((one.net_fee for one in won), Decimal(0)),
            refused_bytes=refused_bytes,
        )


def _run(row: Any) -> Run:
    return Run(
        id=row["id"],
        client=row["client"],
        state=row["state"],
        at=Position(row["position"], row["next_row"], row["next_line"], row["in_doubt"]),
        accepted=row["accepted"],
        refused=row["refused"],
        lines=row["lines"],
        net_fee=row["net_fee"],
        refused_path=Path(row["refused_path"]),
        refused_bytes=row["refused_bytes"],
    )


class Locked(ServiceError):
    """Another process imports the file."""


async def lock(connection: Any, origin: Origin, client: str) -> None:
    """Takes the right to import this file. Raises Locked when another process keeps it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LOCK_WAIT_S
    while not await connection.fetchval(statements.LOCK, origin.digest, client):
        if loop.time() > until:
            raise Locked(f"{origin.path}: is being imported just now, by another process")
        await asyncio.sleep(LOCK_POLL_S)


async def begin(connection: Any, origin: Origin, client: str, refused_path: Path | None, *, again: bool) -> Run:
    """The run to go on with, or a new one. Raises ServiceError when neither is right without `again`.

    The caller has the file's lock.
    """
    async with connection.transaction():
        earlier = await connection.fetch(statements.EARLIER, client, origin.digest, str(origin.path))
        running = [row for row in earlier if row["state"] == "running"]
        if again:
            for row in running:
                if row["digest"] == origin.digest and await _is_repeat(connection, origin, client):
                    return await _same(connection, row, origin, refused_path)
            await connection.execute(statements.GIVE_UP, [row["id"] for row in running])
        elif changed := [row for row in running if row["digest"] != origin.digest]:
            raise ServiceError(
                f"{origin.path}: has changed since {changed[0]['accepted']} claims of it were imported, so that import "
                "cannot go on; --again imports it from the top"
            )
        elif running:
            return await _same(connection, running[0], origin, refused_path)
        elif earlier:
            at = rfc3339(earlier[0]["finished_at"])
            raise ServiceError(f"{origin.path}: was imported already, until {at}; --again imports it once more")
        refused, run_id = refused_path or path_for(origin.path), new_id()
        RefusedFile(refused, run_id, 0).check_new()
        row = await connection.fetchrow(
            statements.BEGIN_RUN,
            run_id,
            origin.digest,
            client,
            str(origin.path),
            origin.format,
            origin.size,
            str(refused),
        )
        return _run(row)


async def _is_repeat(connection: Any, origin: Origin, client: str) -> bool:
    """Whether the run of this file began by `again` itself: once more from the top, it would pay its claims twice."""
    return bool(await connection.fetchval(statements.ENDED, client, origin.digest))


async def _same(connection: Any, row: Any, origin: Origin, refused_path: Path | None) -> Run:
    """The run goes on as it began; as long as nothing was refused, that may be written elsewhere."""
    if row["format"] != origin.format:
        raise ServiceError(
            f"{origin.path}: its import began as {row['format']}; say --format {row['format']}, or --again"
        )
    run = _run(row)
    if refused_path not in (None, run.refused_path):
        if not run.refused_bytes and refused_path:
            RefusedFile(refused_path, run.id, 0).check_new()
            return _run(await connection.fetchrow(statements.REFUSED_ELSEWHERE, run.id, str(refused_path)))
        raise ServiceError(f"{origin.path}: the refused claims of its import so far are in {run.refused_path}")
    return run


async def current(connection: Any, run: Run) -> Run:
    """The run as the database has it."""
    return _run(await connection.fetchrow(statements.RUN, run.id))


async def finish(connection: Any, run: Run) -> bool:
    """Whether it is finished by this call."""
    return bool(await connection.fetchval(statements.FINISH, run.id, run.at.offset))
