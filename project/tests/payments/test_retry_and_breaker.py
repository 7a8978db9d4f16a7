"""When to try again, and when to stop asking: pure, without a clock of their own."""

import random

import pytest

from project.payments.breaker import LIMIT, LONGEST_PAUSE_S, Breaker, State
from project.payments.client import CALL_S
from project.payments.retry import LONGEST_CANCEL_S, LONGEST_PAY_S, delay


@pytest.mark.parametrize(("attempts", "ceiling"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (1000, 8)])
def test_delays_are_spread_over_all_of_a_doubling_range(attempts: int, ceiling: float) -> None:
    dice = random.Random(7)
    drawn = [delay(attempts, LONGEST_PAY_S, dice) for _ in range(2000)]
    assert 0 <= min(drawn) < 0.02 * ceiling
    assert 0.98 * ceiling < max(drawn) <= ceiling
    assert 0.45 * ceiling < sum(drawn) / len(drawn) < 0.55 * ceiling


def test_the_other_side_is_not_asked_before_it_wants_to_be() -> None:
    assert delay(1, LONGEST_PAY_S, random.Random(7), retry_after_s=12.5) == 12.5


def test_the_fifth_attempt_comes_within_a_minute_of_the_first() -> None:
    longest = sum(min(LONGEST_PAY_S, 2.0**exponent) + CALL_S for exponent in range(4))
    assert longest < 60


def test_a_cancellation_is_tried_for_ever_at_a_bounded_pace() -> None:
    assert max(delay(10_000, LONGEST_CANCEL_S, random.Random(seed)) for seed in range(200)) <= LONGEST_CANCEL_S


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(LIMIT):
        breaker.failed(now)
    return breaker


def test_one_decision_among_failures_keeps_the_breaker_closed() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(LIMIT - 1):
            breaker.failed(0.0)
        breaker.decided()
    assert breaker.state is State.CLOSED
    assert breaker.admits(64, 3) == 64


def test_failures_in_a_row_open_it_and_nothing_is_taken() -> None:
    breaker = opened()
    assert breaker.state is State.OPEN
    assert breaker.admits(64, 0) == 0
    assert not breaker.wants_probe(0.99)
    assert breaker.wants_probe(1.0)


def test_a_live_service_gets_one_payment_to_prove_itself() -> None:
    breaker = opened()
    breaker.probed(True, 1.0)
    assert (breaker.admits(64, 1), breaker.admits(64, 0)) == (0, 1)
    breaker.decided()
    assert breaker.admits(64, 0) == 64


def test_each_disappointment_doubles_the_pause_up_to_a_bound() -> None:
    breaker = opened()
    pauses = []
    now = 0.0
    for alive in (False, True, False, True, False):
        now = breaker.probe_at
        breaker.probed(alive, now)
        if alive:
            breaker.failed(now)
        pauses.append(breaker.probe_at - now)
    assert pauses == [2.0, 4.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_service_that_was_never_asked_gets_no_payment_before_it_has_answered_once() -> None:
    breaker = Breaker(unasked=True)
    assert (breaker.admits(64, 0), breaker.wants_probe(0.0)) == (0, True)
    breaker.probed(False, 0.0)
    assert (breaker.admits(64, 0), breaker.wants_probe(0.19), breaker.wants_probe(0.2)) == (0, False, True)
    breaker.probed(True, 0.2)
    assert (breaker.state, breaker.admits(64, 3)) == (State.CLOSED, 64)


def test_calls_that_were_in_flight_do_not_move_an_open_breaker() -> None:
    breaker = opened()
    breaker.failed(0.9)
    assert breaker.probe_at == 1.0
