"""The keys that one process knows, read again each second. Made by `app` and by `worker`, asked by `door`.

So a key that was made or revoked is in force everywhere within five seconds, without a restart. What was read longer
ago than FRESH_S is not believed any more: a process that cannot reach the database does not know whom to let in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any
from uuid import UUID

import structlog

from project import db
from project.security import keys, store
from project.security.scopes import Caller
from project.security.store import LiveKey
from project.telemetry.logs import where

_log = structlog.get_logger("keys")

READ_EVERY_S = 1.0
READ_AGAIN_S = 0.1  # after a read that failed
CLOSE_S = 1.0
FRESH_S = 4.0  # with READ_EVERY_S less than the five seconds in which a change must be in force


class Mode(Enum):
    """What is known of the keys: nothing yet; that none was ever made; that there are, or were, some."""

    UNKNOWN = "unknown"
    KEYLESS = "keyless"
    KEYED = "keyed"


class KeyRing:
    """The live keys of this process."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self.mode = Mode.UNKNOWN
        self._keys: Mapping[UUID, LiveKey] = {}
        self._used: set[UUID] = set()
        self._read_at = float("-inf")
        self._clock: Callable[[], float] = lambda: 0.0
        self._connection = db.Reconnecting(connect)
        self._reader: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._has_read = asyncio.Event()
        self._away = False

    def start(self) -> None:
        """Starts to read; the database need not be there yet."""
        self._clock = asyncio.get_running_loop().time
        self._reader = asyncio.create_task(self._read_again_and_again())

    async def close(self) -> None:
        """Reads no more. A read that is under way may end: to cut it short takes one more connection."""
        self._stop.set()
        if self._reader:
            await asyncio.wait([self._reader], timeout=CLOSE_S)
            self._reader.cancel()
            await asyncio.wait([self._reader])
        self._connection.drop()

    @property
    def is_fresh(self) -> bool:
        """Whether the database said so a moment ago."""
        return self._clock() - self._read_at < FRESH_S

    async def freshen(self, within_s: float) -> None:
        """Returns when the keys are fresh, or after so long: at a start, or as the database comes back, soon."""
        self._has_read.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._has_read.wait()

    def holder_of(self, key: bytes) -> Caller | None:
        """Who holds this key; None when it is no live key."""
        key_id = keys.id_of(key)
        if key_id is None:
            return None
        known = self._keys.get(key_id)
        if not keys.holds(known.hash if known else None, key) or known is None:
            return None
        self._used.add(key_id)
        return known.caller

    async def _read_again_and_again(self) -> None:
        while not self._stop.is_set():
            try:
                await self._read(await self._connection.get())
            except Exception as error:  # noqa: BLE001  whatever it is, the next try is on a new connection
                self._connection.drop()
                if not self._away and self.mode is not Mode.UNKNOWN:  # at the start the database is only late
                    _log.warning("keys_not_read", error=where(error))
                self._away = True
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_AGAIN_S if self._away else READ_EVERY_S):
                    await self._stop.wait()

    async def _read(self, connection: Any) -> None:
        asked_at = self._clock()
        live = await store.live(connection)
        mode = Mode.KEYED if live or await store.ever_made(connection) else Mode.KEYLESS
        if self._away and self.mode is not Mode.UNKNOWN:
            _log.info("keys_read_again")
        if mode is not self.mode:
            _log.info("access", mode=mode.value)
        self._keys, self.mode, self._read_at, self._away = live, mode, asked_at, False
        self._has_read.set()
        if used := list(self._used):
            self._used.difference_update(used)
            await store.touch(connection, used)
