"""When to try again: exponential backoff with full jitter, and never before the other side asked. Pure."""

import random

FIRST_S = 1.0
# Four pauses of at most 1, 2, 4 and 8 s between five calls of at most 5 s: the fifth starts within 60 s of the first,
# unless payments asks for more time by Retry-After.
LONGEST_PAY_S = 8.0
LONGEST_CANCEL_S = 30.0


def delay(attempts: int, longest_s: float, dice: random.Random, retry_after_s: float = 0.0) -> float:
    """Seconds until the next attempt, after `attempts` of them (at least 1) decided nothing."""
    ceiling = min(longest_s, FIRST_S * 2 ** min(attempts - 1, 30))
    return max(dice.uniform(0, ceiling), retry_after_s)
