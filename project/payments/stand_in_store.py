"""The stand-in's durable store: one SQLite file, honest idempotency, many calls in one commit. Called by `stand_in`.

The rules are plain functions over a connection; Store runs them in a thread and answers after COMMIT (fsync), so what
was answered survives a kill or a power cut.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

T = TypeVar("T")

_TABLE = """
CREATE TABLE IF NOT EXISTS payment (
    idempotency_key TEXT PRIMARY KEY, payment_id TEXT, claim_id TEXT, net_fee TEXT, status TEXT NOT NULL
) WITHOUT ROWID
"""
_COLUMNS = "payment_id, claim_id, idempotency_key, net_fee, status"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a key. Without a `payment_id` it was cancelled before anything was paid. `new`: just now."""

    payment_id: str | None
    claim_id: str | None
    idempotency_key: str
    net_fee: str | None
    status: str
    new: bool = False


def open_database(path: str) -> sqlite3.Connection:
    """The store's file, or `:memory:`; a commit is on disk when it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    return connection


def find(connection: sqlite3.Connection, key: str) -> Kept | None:
    """What the key did, if anything."""
    query = f"SELECT {_COLUMNS} FROM payment WHERE idempotency_key = ?"  # noqa: S608  only our own columns
    row = connection.execute(query, (key,)).fetchone()
    return Kept(*row) if row else None


def pay(connection: sqlite3.Connection, key: str, claim_id: str, net_fee: str) -> Kept:
    """Pays once for a key; a key that is known, paid or cancelled, keeps what it is."""
    if known := find(connection, key):
        return known
    made = Kept(str(uuid4()), claim_id, key, net_fee, "paid", new=True)
    connection.execute(
        "INSERT INTO payment (payment_id, claim_id, idempotency_key, net_fee, status) VALUES (?, ?, ?, ?, ?)",
        (made.payment_id, claim_id, key, net_fee, "paid"),
    )
    return made


def cancel(connection: sqlite3.Connection, key: str) -> None:
    """Cancels what the key paid; with nothing paid yet, remembers that it never may."""
    connection.execute(
        "INSERT INTO payment (idempotency_key, status) VALUES (?, 'cancelled') "
        "ON CONFLICT (idempotency_key) DO UPDATE SET status = 'cancelled'",
        (key,),
    )


def listed(connection: sqlite3.Connection) -> list[Kept]:
    """Every payment ever made, cancelled ones too; not the keys that were cancelled before they paid."""
    query = f"SELECT {_COLUMNS} FROM payment WHERE payment_id IS NOT NULL"  # noqa: S608  only our own columns
    return [Kept(*row) for row in connection.execute(query)]


class Store:
    """Runs what it is given in one thread at a time, all that waits in one transaction."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = open_database(str(path))
        self._waiting: deque[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._write())

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives, once it is durable."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._wake.set()
        return await done

    async def close(self) -> None:
        """Ends the writer and closes the file."""
        self._writer.cancel()
        with suppress(asyncio.CancelledError):
            await self._writer
        self._connection.close()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            try:
                results = await asyncio.to_thread(self._run, [work for work, _ in batch])
            except sqlite3.Error as error:  # a full disk: nothing of the batch is stored
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)

    def _run(self, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = [work(self._connection) for work in works]
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        return results
