"""The processes that parse, beside the one that reads the file and writes to the database. Called by `run`."""

import asyncio
import os
import sys
from asyncio import IncompleteReadError, Task
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle

import msgspec

from project.errors import ServiceError
from project.imports.parsing import LENGTH_BYTES, Parsed, Setup, Work, framed
from project.imports.reading import Chunk

MOST = 3  # one connection of Postgres takes in what two of them parse
PIPE_BYTES = 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Parsed)


def how_many() -> int:
    """Processes for this machine: one processor is Postgres' own."""
    return max(1, min(MOST, (os.cpu_count() or 1) - 1))


class _Parser:
    """One process. It is asked one thing at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def tell(self, setup: Setup) -> None:
        try:
            await self._send(_encoder.encode(setup))
        except ConnectionError:
            raise _ended() from None

    async def parse(self, chunk: Chunk) -> Parsed:
        async with self._turn:
            try:
                await self._send(_encoder.encode(Work(chunk.pieces, chunk.data)))
                assert self._process.stdout
                length = int.from_bytes(await self._process.stdout.readexactly(LENGTH_BYTES), "big")
                return _decoder.decode(await self._process.stdout.readexactly(length))
            except (IncompleteReadError, ConnectionError):
                raise _ended() from None

    async def _send(self, content: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(framed(content))
        await self._process.stdin.drain()

    async def close(self) -> None:
        """Ends it, also in the middle of its work."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _ended() -> ServiceError:
    return ServiceError("a process that parses has ended by itself; the same command goes on")


class Pool:
    """Some of them."""

    def __init__(self, parsers: list[_Parser]) -> None:
        self._parsers = parsers

    async def in_order(self, chunks: Iterator[Chunk]) -> AsyncGenerator[tuple[Chunk, Parsed]]:
        """Each chunk with what became of it, in the file's order; a few chunks ahead are in hand, and no more.

        What `chunks` raises comes after all that it gave before.
        """
        ahead: Ahead = asyncio.Queue(len(self._parsers))
        reading = asyncio.create_task(self._read_ahead(chunks, ahead))
        try:
            while isinstance(item := await ahead.get(), tuple):
                chunk, parsing = item
                yield chunk, await parsing
            if item is not None:
                raise item
        finally:
            reading.cancel()
            while not ahead.empty():
                if isinstance(item := ahead.get_nowait(), tuple):
                    item[1].cancel()

    async def _read_ahead(self, chunks: Iterator[Chunk], ahead: "Ahead") -> None:
        """While Postgres works, so that it never waits for the file. Its end, or what ended it, comes last."""
        end: Exception | None = None
        try:
            for parser in cycle(self._parsers):
                chunk = next(chunks, None)
                if chunk is None:
                    break
                await ahead.put((chunk, asyncio.create_task(parser.parse(chunk))))
        except Exception as error:  # noqa: BLE001  whoever takes the chunks raises it
            end = error
        await ahead.put(end)


Ahead = asyncio.Queue[tuple[Chunk, Task[Parsed]] | Exception | None]


@asynccontextmanager
async def parsing(setup: Setup) -> AsyncIterator[Pool]:
    """A pool for one file."""
    argv = (sys.executable, "-m", "project.imports.parsing")
    parsers: list[_Parser] = []
    try:
        for _ in range(how_many()):
            # In a group of its own: Ctrl-C is for the process that starts it.
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES, process_group=0
            )
            parsers.append(_Parser(process))
            await parsers[-1].tell(setup)
        yield Pool(parsers)
    finally:
        for parser in parsers:
            await parser.close()
