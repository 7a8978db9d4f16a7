"""The circuit breaker before the payments service: pure, told the time. Called by the worker's paying lane.

Closed: everything may go. Open, after LIMIT calls in a row that decided nothing: no payment is taken, so none uses up
its attempts. When the pause is over the service is asked whether it is alive; if so, half-open: one payment may try,
and what becomes of it closes the breaker or opens it for twice as long. Reversals and events do not pass here.
"""

from enum import IntEnum

LIMIT = 20
FIRST_PAUSE_S = 1.0
UNASKED_PAUSE_S = 0.2  # a service that is started along with the worker is there in a moment
LONGEST_PAUSE_S = 5.0


class State(IntEnum):
    """As the metric `payments_breaker_state` shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Times are seconds of one monotonic clock, whichever."""

    def __init__(self, *, unasked: bool = False) -> None:
        """`unasked`: open until the service has answered once; one that was never there costs no claim an attempt."""
        self.state = State.OPEN if unasked else State.CLOSED
        self.is_unasked = unasked
        self.probe_at = 0.0
        self._failures = 0
        self._pause = UNASKED_PAUSE_S if unasked else FIRST_PAUSE_S

    def admits(self, free: int, in_flight: int) -> int:
        """How many payments may be taken when `free` more could be called and `in_flight` are."""
        if self.state is State.CLOSED:
            return free
        return 1 if self.state is State.HALF_OPEN and in_flight == 0 else 0

    def decided(self) -> None:
        """A call was answered by yes or no: the service works."""
        self.state = State.CLOSED
        self._failures = 0
        self._pause = FIRST_PAUSE_S

    def failed(self, now: float) -> None:
        """A call decided nothing."""
        self._failures += 1
        if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._failures >= LIMIT):
            self._open(now)

    def wants_probe(self, now: float) -> bool:
        """Whether it is time to ask if the service is alive."""
        return self.state is State.OPEN and now >= self.probe_at

    def probed(self, alive: bool, now: float) -> None:
        """The service was asked."""
        if alive:
            self.is_unasked = False
            self.state = State.HALF_OPEN if self._failures else State.CLOSED
        else:
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self.probe_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
