"""Wake-ups between processes: whoever commits work rings, workers listen. Only a courtesy: a poll stands behind it.

Called by `app` and by redrives (ring) and by `worker` (listen). NOTIFY is sent after the commit, on a connection of
its own, and many commits share one: inside the transactions it would make all commits wait for each other.
LISTEN needs a session, so a worker's DATABASE_URL must not lead through a pooler in transaction mode.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog

from project import db
from project.telemetry.logs import where

CHANNEL = "claim_process_due"
RING = f"NOTIFY {CHANNEL}"
COALESCE_S = 0.01  # rings within this time are one
LISTEN_AGAIN_S = 1.0
ALIVE_EVERY_S = 5.0

_log = structlog.get_logger("bell")


class Bell:
    """Rings at most once each COALESCE_S. A ring that fails is lost, and found by the poll."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connection = db.Reconnecting(connect)
        self._wanted = asyncio.Event()
        self._ringer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to ring when asked; the database need not be there yet."""
        self._ringer = asyncio.create_task(self._ring())

    async def close(self) -> None:
        """Rings no more."""
        if self._ringer:
            self._ringer.cancel()
            with suppress(asyncio.CancelledError):
                await self._ringer
        self._connection.drop()

    def ring(self) -> None:
        """Work was committed. Returns at once."""
        self._wanted.set()

    async def _ring(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await (await self._connection.get()).execute(RING)
            except Exception:  # noqa: BLE001  the poll finds what this ring was for
                self._connection.drop()
            await asyncio.sleep(COALESCE_S)


async def listen(connect: Callable[[], Awaitable[Any]], heard: Callable[[], None]) -> None:
    """Calls `heard` at each ring, and after each reconnection, for what was missed; until it is cancelled."""
    connection = db.Reconnecting(connect)
    try:
        while True:
            try:
                listening = await connection.get()
                await listening.add_listener(CHANNEL, lambda *_: heard())
                heard()
                while True:
                    await asyncio.sleep(ALIVE_EVERY_S)
                    await listening.execute("SELECT 1")
            except Exception as error:  # noqa: BLE001  whatever it is, listen again; the poll goes on meanwhile
                _log.debug("listening_again", error=where(error))
                connection.drop()
                await asyncio.sleep(LISTEN_AGAIN_S)
    finally:
        connection.drop()
