"""Clients for what takes so long that wrk would end in its midst: each waits for its last answer. Used by `ground`."""

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

LONGEST_S = 600.0


@dataclass(frozen=True)
class Run:
    """What was answered, all of it 2xx."""

    seconds: float
    answers: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def post(url: str, bodies: Sequence[str], seconds: float, clients: int) -> Run:
    """So many clients post these claims in turn; none begins another after `seconds`. Raises for any other answer."""
    following, lock = itertools.cycle(bodies), threading.Lock()
    started = time.perf_counter()

    def one_after_another(_: int) -> int:
        count = 0
        with httpx2.Client(timeout=LONGEST_S, headers={"Content-Type": "application/json"}) as http:
            while time.perf_counter() < started + seconds:
                with lock:
                    body = next(following)
                http.post(url, content=body).raise_for_status()
                count += 1
        return count

    with ThreadPoolExecutor(clients) as together:
        answers = sum(together.map(one_after_another, range(clients)))
    return Run(time.perf_counter() - started, answers)
