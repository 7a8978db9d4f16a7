"""One file's import, from its first byte to its last: read, parse, store, chunk by chunk. Called by `commands`.

A transaction stores a chunk's claims and says in the run's row how far the file is done. So whoever goes on, after a
lost connection, kill -9 or a power cut, asks that row, and nothing is stored twice or left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from project import db
from project.bell import RING
from project.errors import ServiceError
from project.imports import files, pool, runs, storing
from project.imports.csv_claims import Header, csv_claims, read_header
from project.imports.files import Format, Origin
from project.imports.parsing import Parsed, Setup
from project.imports.reading import CHUNK_BYTES, Chunk, Found, Limits, Position, chunks, ndjson_claims, one_claim
from project.imports.refusals import RefusedFile
from project.imports.runs import Run
from project.settings import IntakeSettings

AWAY_S = 60.0  # so long the database may be away before an import ends; it can be gone on with at any time
RECONNECT_PAUSE_S = 0.2
BUSY_S = 2.0  # so long a claim waits for whoever is about to take its number, as in POST
BUSY_PAUSE_S = 0.02


class DatabaseGone(ServiceError):
    """The database was away for too long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How files are to be imported."""

    client: str
    actor: str
    format: Format | None = None
    refused: Path | None = None
    again: bool = False


class Progress(NamedTuple):
    """How far a file is: bytes of it on disk, the run, and what this was when this process took it up."""

    done: int
    size: int
    run: Run
    before: Run


@dataclass(frozen=True, slots=True)
class Summary:
    """What an import came to. The run counts what earlier processes did of it, too; `new_lines` are of this one."""

    path: Path
    run: Run
    finished: bool
    resumed: bool
    new_lines: int


async def import_file(
    connect: Callable[[], Awaitable[Any]],
    path: Path,
    wanted: Wanted,
    limits: IntakeSettings,
    *,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Imports the file, or what is left of it; until `stop` says so, which is asked between transactions.

    Raises ServiceError when it cannot be done, or not to its end; what is committed until then stays, and the same call
    goes on from there.
    """
    origin, handle = await asyncio.to_thread(files.opened, path, wanted.format)
    connection = db.Reconnecting(connect)
    with handle:
        try:
            job = _Import(connection, origin, handle, wanted, limits)
            await job.begin()
            before = job.run
            finished = await job.work(stop, tell)
            return Summary(path, job.run, finished, before.at.offset > 0, job.run.lines - before.lines)
        finally:
            connection.drop()


class _Import:
    """The state of one import."""

    run: Run
    _refused: RefusedFile

    def __init__(
        self,
        connection: db.Reconnecting,
        origin: Origin,
        handle: FileIO,
        wanted: Wanted,
        limits: IntakeSettings,
    ) -> None:
        self._connection = connection
        self._origin = origin
        self._handle = handle
        self._wanted = wanted
        self._limits = limits
        self._header: Header | None = None
        self._start = Position()

    async def begin(self) -> None:
        """Finds out what is to be done, and makes sure that nobody else does it."""
        self._look_at_start()
        origin, wanted = self._origin, self._wanted
        connection = await self._connection.get()
        await runs.lock(connection, origin, wanted.client)
        self.run = await runs.begin(connection, origin, wanted.client, wanted.refused, again=wanted.again)
        self._refused = RefusedFile(self.run.refused_path, self.run.id, self.run.refused_bytes)
        if self.run.at.offset > 0:
            self._start = self.run.at

    def _look_at_start(self) -> None:
        origin = self._origin
        with closing(files.unpacked(self._handle, origin.packed)) as stream:
            try:
                self._start = Position(files.past_mark(origin.path, stream))
                if origin.format == "csv":
                    self._header = read_header(origin.path, stream, self._start.offset)
            except files.DAMAGED:
                raise files.damaged(origin.path) from None
        if self._header and self._header.number is not None:
            self._start = Position(self._header.end, line=self._header.line)

    async def work(self, stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        """Does it; whether it came to the file's end."""
        before = self.run
        with (
            closing(files.unpacked(self._handle, self._origin.packed)) as stream,
            closing(self._refused),
            closing(self._chunks(stream)) as found,
        ):
            async with pool.parsing(self._setup()) as parsers, aclosing(parsers.in_order(found)) as work:
                async for chunk, parsed in work:
                    await self._until_done(partial(self._store, chunk, parsed), chunk.after.offset, stop)
                    tell(Progress(self._done(), self._origin.size, self.run, before))
                    if stop():
                        return False
        if await asyncio.to_thread(files.has_changed, self._origin, self._handle):
            raise ServiceError(
                f"{self._origin.path}: was changed while it was imported; the {self.run.accepted} claims that were "
                "accepted stay, but which file they are of nobody can say"
            )
        await self._until_done(self._finish, None, stop)
        return True

    def _setup(self) -> Setup:
        limits, wanted = self._limits, self._wanted
        return Setup(
            format=self._origin.format,
            client=wanted.client,
            actor=wanted.actor,
            max_lines=limits.max_lines,
            max_nesting=limits.max_nesting,
            npi_check=limits.npi_check,
            header=self._header,
        )

    def _chunks(self, stream: BufferedReader) -> Generator[Chunk]:
        return chunks(self._claims(stream), self._start, CHUNK_BYTES[self._origin.format])

    def _claims(self, stream: BufferedReader) -> Iterator[Found]:
        limits = Limits(self._limits.max_lines, self._limits.max_body_bytes)
        start, header, path = self._start, self._header, self._origin.path
        try:
            stream.seek(start.offset)
            if header is None:
                yield from ndjson_claims(stream, start, limits)
            elif header.number is None:
                yield from one_claim(stream, start, limits)
            else:
                yield from csv_claims(stream, header, start, limits)
        except files.DAMAGED:
            raise files.damaged(path) from None
        except OSError as error:
            raise ServiceError(f"{path}: cannot be read any further ({error.strerror})") from None

    def _done(self) -> int:
        return self._handle.tell() if self._origin.packed else self.run.at.offset

    async def _store(self, chunk: Chunk, parsed: Parsed, connection: Any) -> Run:
        self._refused.rewind(self.run.refused_bytes)
        header = self._header.text.decode() if self._header and self._header.number is not None else None
        loop = asyncio.get_running_loop()
        until = loop.time() + BUSY_S
        while True:
            try:
                stored = await storing.store(
                    connection, self.run, chunk, parsed, self._refused, header, wait_for_numbers=loop.time() < until
                )
                break
            except storing.NumbersBusy:
                await connection.execute("ROLLBACK")
                await asyncio.sleep(BUSY_PAUSE_S)
        with suppress(*db.AWAY):  # only a courtesy; if the connection is gone, the next transaction will notice
            await connection.execute(RING)
        return stored

    async def _finish(self, connection: Any) -> Run:
        if not await runs.finish(connection, self.run):
            raise storing.Moved
        return self.run

    async def _until_done(
        self, step: Callable[[Any], Awaitable[Run]], leads_to: int | None, stop: Callable[[], bool]
    ) -> None:
        """Takes the step, over new connections if need be. Its transaction is not repeated if it was committed, which
        the run's row tells: it is then at the offset that the step `leads_to`, or finished.
        """
        until: float | None = None
        while True:
            try:
                self.run = await step(await self._connection.get())
                return
            except asyncpg.PostgresError as error:
                if not _passes(error):  # a defect; its text could hold values
                    raise ServiceError(
                        f"{self._origin.path}: the database does not take the claims from line {self.run.at.line} on "
                        f"({type(error).__name__})"
                    ) from None
            except Exception as error:
                if not _passes(error):
                    raise
            until = until or asyncio.get_running_loop().time() + AWAY_S
            now = await self._found_again(until, stop)
            if now.at.offset == leads_to or now.state == "finished":
                self.run = now
                return
            if now.at.offset != self.run.at.offset:
                raise storing.Moved

    async def _found_again(self, until: float, stop: Callable[[], bool]) -> Run:
        """The run over a new connection; nobody else works on it by then, our own lost transaction included."""
        loop = asyncio.get_running_loop()
        self._connection.drop()
        while True:
            try:
                connection = await self._connection.get()
                await runs.lock(connection, self._origin, self._wanted.client)
                return await runs.current(connection, self.run)
            except Exception as error:
                if not (_passes(error) or isinstance(error, runs.Locked)):
                    raise
                self._connection.drop()
                if stop() or loop.time() > until:
                    raise DatabaseGone(
                        f"{self._origin.path}: the database cannot be reached; {self.run.accepted} claims are "
                        "imported, and the same command goes on from there"
                    ) from None
            await asyncio.sleep(RECONNECT_PAUSE_S)


def _passes(error: Exception) -> bool:
    """Whether to try again: the database is away, or had to choose between two transactions."""
    return db.is_away(error) or isinstance(error, asyncpg.TransactionRollbackError)
