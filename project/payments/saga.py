"""The saga's steps: pay and reverse. A step makes one call, with no transaction open, and hands on what came of it.

Called by `worker` for each leased payment (and by the simulation, which kills it at every await). What a step decides
is durable only when `settle` says so; whoever is killed in between leaves a lease that runs out, and the next holder
asks again under the same key.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from project.ids import age_s
from project.payments import retry
from project.payments.breaker import Breaker, State
from project.payments.client import CALL_S, Cancelled, Due, Paid, Refused, Result, Unavailable, Unknown
from project.payments.settling import Failed, GivenBack, GivenUp, NotCancelled, Outcome, Reversed, Settled
from project.telemetry import saga_metrics as metrics
from project.telemetry.trace_context import trace_id

_log = structlog.get_logger("saga")


class Payments(Protocol):
    """What the steps need of the payments client."""

    async def pay(self, due: Due) -> Result: ...
    async def cancel(self, due: Due) -> Cancelled | Unavailable | Unknown: ...


@dataclass(frozen=True)
class Steps:
    """What a step works with. `clock` gives monotonic seconds, `attempts` is how many calls a payment gets."""

    payments: Payments
    settle: Callable[[Outcome, float], Awaitable[bool]]
    breaker: Breaker
    dice: random.Random
    clock: Callable[[], float]
    attempts: int

    async def pay(self, due: Due, expires: float, called: Callable[[], None] = lambda: None) -> Outcome:
        """One attempt at a payment: pays, tries again later, or gives it up and leaves the claim to `reverse`.

        `expires` is the moment of `clock` at which the lease ends, `called` is told of the call's end. What opened the
        breaker may have done so after the lease, and a worker that was stalled may be too late: then no call is made
        and the attempt not counted.
        """
        if self.breaker.state is State.OPEN or self.clock() + CALL_S > expires:
            back = GivenBack(due)
            await self.settle(back, expires)
            return back
        result = await self.payments.pay(due)
        called()
        if isinstance(result, Paid | Refused):
            self.breaker.decided()
        else:
            self.breaker.failed(self.clock())
        outcome = self._judged(due, result)
        _record(outcome, await self.settle(outcome, expires))
        return outcome

    def _judged(self, due: Due, result: Result) -> Outcome:
        """An expired lease may bring more attempts than allowed; each was one more call under the same key."""
        match result:
            case Paid(payment_id):
                return Settled(due, payment_id)
            case Refused(reason):
                return GivenUp(due, "refused", reason)
        if due.attempts >= self.attempts:
            return GivenUp(due, "exhausted", result.detail)
        asked = result.retry_after if isinstance(result, Unavailable) else 0.0
        return Failed(due, result.detail, retry.delay(due.attempts, retry.LONGEST_PAY_S, self.dice, asked))

    async def reverse(self, due: Due, expires: float, called: Callable[[], None] = lambda: None) -> Outcome:
        """One attempt at a reversal. The claim is deleted only after payments confirmed that its key never pays."""
        result = await self.payments.cancel(due)
        called()
        outcome: Outcome
        if isinstance(result, Cancelled):
            outcome = Reversed(due)
        else:
            asked = result.retry_after if isinstance(result, Unavailable) else 0.0
            pause = retry.delay(due.attempts, retry.LONGEST_CANCEL_S, self.dice, asked)
            outcome = NotCancelled(due, result.detail, pause)
        _record(outcome, await self.settle(outcome, expires))
        return outcome


def _record(outcome: Outcome, changed: bool) -> None:
    """Counts what became of a step, and tells of what an operator may ask about."""
    if not changed:
        metrics.FENCED.inc()
        _log.info("lease_lost", **_about(outcome.due))
        return
    if isinstance(outcome, Settled):  # nearly all of them, so nothing is made ready that is not told (bench: saga)
        metrics.PAID.inc()
        if outcome.due.redrive_no == 0:
            metrics.TO_PAID_SECONDS.observe(max(age_s(outcome.due.claim_id), 0.0))  # a clock may have been set back
        if _log.is_enabled_for(logging.DEBUG):
            _log.debug("claim_paid", **_about(outcome.due))
        return
    about = _about(outcome.due)
    match outcome:
        case Failed(due, detail, delay_s):
            told = {"attempt": due.attempts, "why": detail, "again_in_s": round(delay_s, 2)}
            _log.info("payment_attempt_failed", **about, **told)
        case GivenUp(_, reason, detail):
            metrics.GIVEN_UP.labels(reason).inc()
            _log.warning("payment_given_up", **about, reason=reason, why=detail)
        case NotCancelled(_, detail, delay_s):
            metrics.CANCEL_FAILURES.inc()
            _log.warning("cancel_not_confirmed", **about, why=detail, again_in_s=round(delay_s, 2))
        case Reversed():
            metrics.REVERSED.inc()
            _log.info("claim_reversed", **about)


def _about(due: Due) -> dict[str, str | int]:
    """What every line about a claim names."""
    about: dict[str, str | int] = {"claim": str(due.claim_id), "redrive_no": due.redrive_no}
    if due.traceparent is not None:
        about["trace_id"] = trace_id(due.traceparent)
    return about
