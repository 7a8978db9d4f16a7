"""What one web process has in hand, and when that is too much. Made by `app`, asked by `protocol` for each request.

It imports no metrics, since `web` imports it before the metrics' folder is there.

A process that takes in more than it can finish answers everybody late. So what is over the limits is refused before
anything is done for it, which costs a tenth of doing it, and the rest keeps its pace (docs/decisions/0012-overload.md).
"""

import asyncio
from collections.abc import Callable, Sized
from typing import Protocol

from project.settings import MEBIBYTE, LimitSettings

COUNT_EVERY_S = 0.2
# What clients have asked for and do not take. Past it, who has not taken anything for longest is cut off.
UNSENT_BYTES = 64 * MEBIBYTE


class Connection(Protocol):
    """What is asked of a connection."""

    def unsent(self) -> int:
        """Bytes that wait for the client."""

    def cut(self) -> None:
        """Ends the connection at once."""


class Load:
    """The requests in hand of one process.

    `queue_is_full` tells whether the ledger takes no more claims; `count` is told how many requests were refused.
    """

    def __init__(self, limits: LimitSettings, queue_is_full: Callable[[], bool], count: Callable[[int], None]) -> None:
        self.limits = limits
        self._count = count
        self._uncounted = 0
        self.uploading = 0  # requests whose body is still on its way: they wait for their client, not for us
        self.reading: set[asyncio.Task[None]] = set()
        self.is_leaving = False  # the process has been told to stop: what is long ends early
        self._queue_is_full = queue_is_full
        self._stuck: dict[Connection, None] = {}  # in the order in which they got stuck

    def refuses(self, method: bytes, path: bytes, running: Sized) -> bool:
        """Whether a request is one too many, given the tasks that are running for others.

        Reads may be half of them: they wait for connections to the database, and must not keep claims out.
        """
        most = self.limits.max_requests_in_hand
        if len(running) - self.uploading >= most or (method == b"GET" and 2 * len(self.reading) >= max(most, 2)):
            return path not in _ALWAYS_SERVED
        return method == b"POST" and path.startswith(b"/claims") and self._queue_is_full()

    def refused(self) -> None:
        """A request was refused. They are counted together, COUNT_EVERY_S after the first: a metric costs syscalls."""
        if not self._uncounted:
            asyncio.get_running_loop().call_later(COUNT_EVERY_S, self._count_all)
        self._uncounted += 1

    def _count_all(self) -> None:
        self._count(self._uncounted)
        self._uncounted = 0

    def stuck(self, connection: Connection) -> None:
        """Its client takes nothing for now; memory for all of these is bounded."""
        self._stuck[connection] = None
        while len(self._stuck) > 1 and sum(one.unsent() for one in self._stuck) > UNSENT_BYTES:
            longest = next(iter(self._stuck))
            del self._stuck[longest]
            longest.cut()

    def flows(self, connection: Connection) -> None:
        """Its client takes its answer, or is gone."""
        self._stuck.pop(connection, None)


_ALWAYS_SERVED = frozenset({b"/livez", b"/readyz", b"/metrics", b"/hello"})
