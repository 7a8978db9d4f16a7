"""How much of all batches may be in a process' ledger at once. Made by `batch_routes`.

Batches wait here, in the order in which they came and a slice at a time, so that they neither fill the ledger's queue,
which single claims need, too, nor hold more parsed lines in memory than this.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from project.errors import Overloaded, Problem

WAIT_S = 20.0  # for one's turn; a proxy gives up on an answer after 30 s of silence


class Room:
    """Room for `most` lines and one slice more, since a slice's lines are known only once it has been read."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lines = 0
        self._one_at_a_time = asyncio.Lock()
        self._freed = asyncio.Event()
        self._failure: Problem | None = None
        self._failed_at = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Whoever is inside may read a slice and take its lines.

        Raises Problem: what has kept another slice from being stored while this one waited, for it would fare no
        better and all of them would wait in turn; or Overloaded when its turn does not come.
        """
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(WAIT_S) as patience:
                async with self._one_at_a_time:
                    while self._lines >= self.most and self._failed_at < began:
                        self._freed.clear()
                        await self._freed.wait()
                    patience.reschedule(None)
                    if self._failure is not None and self._failed_at >= began:
                        raise self._failure
                    yield
        except TimeoutError:
            raise Overloaded("too many batches wait for their turn; nothing was stored") from None

    def take(self, lines: int) -> None:
        """For a slice that was read in its turn."""
        self._lines += lines

    def give_back(self, lines: int, failure: Problem | None) -> None:
        """The slice's outcomes are known; `failure` is what would keep any other from being stored, too."""
        self._lines -= lines
        if failure is not None:
            self._failure = failure
            self._failed_at = asyncio.get_running_loop().time()
        self._freed.set()
