"""The clients of a chaos trial: they post good and bad claims, repeat keys, read, redrive, and note all that they are told.

Every line of a claim bears the claim's token as its group id, by which it is found again whatever was answered, and a
subscriber id with MARK in it, which must be found nowhere else.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from project.tests.service import line

MARK = "MARKEDSUBSCRIBER"
CLIENTS = 8
PROVIDERS = 300
LONGEST_PAUSE_S = 0.08
NUMBERS = 400  # claim numbers to choose from, so that some are taken
OPERATOR_PAUSE_S = 0.3


@dataclass
class Posted:
    """A claim as it was posted, perhaps several times, and what became of it by the answers.

    `stored`: an answer said so. `open`: an answer was lost, or said that nobody knows.
    """

    token: str
    body: Any
    headers: dict[str, str]
    ids: set[str] = field(default_factory=set)
    stored: bool = False
    open: bool = False


@dataclass(frozen=True)
class Answer:
    """When a request was sent and answered (monotonic seconds), how, and what was wrong with that."""

    sent: float
    answered: float
    status: int
    fault: str | None


class Client:
    """One of them, in a thread of its own."""

    def __init__(self, url: str, number: int, seed: int, stop: threading.Event) -> None:
        self.posted: list[Posted] = []
        self.answers: list[Answer] = []
        self.lost: Counter[str] = Counter()
        self._url = url
        self._number = number
        self._dice = random.Random(f"{seed}/{number}")
        self._stop = stop
        self._turns: list[tuple[Callable[[httpx2.Client], None], int]] = [
            (self._post_small, 60),
            (self._post_with_key, 14),
            (self._post_with_number, 8),
            (self._post_bad, 6),
            (self._post_large, 1),
            (self._read, 11),
        ]

    def run(self) -> None:
        """Turn after turn until it is told to stop."""
        turns, weights = zip(*self._turns, strict=True)
        with httpx2.Client(base_url=self._url, timeout=20) as http:
            while not self._stop.is_set():
                [turn] = self._dice.choices(turns, weights)
                turn(http)
                self._stop.wait(self._dice.random() * LONGEST_PAUSE_S)

    def _lines(self, token: str, count: int) -> list[dict[str, Any]]:
        return [
            line(
                group_id=token,
                subscriber_id=f"{MARK}{self._dice.randrange(10**6)}",
                provider_npi=f"{1_000_000_000 + self._dice.randrange(PROVIDERS)}",
                provider_fees=f"{self._dice.randrange(30_000) / 100:.2f}",
            )
            for _ in range(count)
        ]

    def _new(self, count: int, **headers: str) -> Posted:
        token = f"T{self._number}-{len(self.posted)}"
        posted = Posted(token, self._lines(token, count), headers)
        self.posted.append(posted)
        return posted

    def _post_small(self, http: httpx2.Client) -> None:
        self._post(http, self._new(self._dice.randint(1, 2)))

    def _post_large(self, http: httpx2.Client) -> None:
        self._post(http, self._new(1000))

    def _post_with_number(self, http: httpx2.Client) -> None:
        posted = self._new(1)
        posted.body = {"claim_number": f"N-{self._dice.randrange(NUMBERS)}", "lines": posted.body}
        self._post(http, posted)

    def _post_with_key(self, http: httpx2.Client) -> None:
        """A new key, or one of before with the same body; as a careful client does, again while nobody knows."""
        keyed = [posted for posted in self.posted[-200:] if posted.headers]
        if keyed and self._dice.random() < 0.4:
            posted = self._dice.choice(keyed)
        else:
            posted = self._new(1, **{"Idempotency-Key": f"{self._number}-{len(self.posted)}"})
        for _ in range(3):
            self._post(http, posted)
            if posted.stored or self._stop.wait(0.1):
                break

    def _post_bad(self, http: httpx2.Client) -> None:
        posted = self._new(2)
        posted.body[1] |= self._dice.choice(
            [{"provider_npi": "123"}, {"provider_fees": "-1"}, {"submitted_proc": None}, {"colour": MARK}]
        )
        self._post(http, posted)

    def _post(self, http: httpx2.Client, posted: Posted) -> None:
        answer = self._ask(http, "POST", "/claims", json=posted.body, headers=posted.headers)
        if isinstance(answer, httpx2.ConnectError):
            return  # nothing was sent
        if isinstance(answer, Exception):
            posted.open = True
        elif answer.status_code == 201:
            posted.stored = True
            posted.ids.add(answer.json()["id"])
        elif answer.status_code == 410:
            posted.stored = True
        elif answer.status_code == 503 and answer.json()["type"] == "/problems/outcome-unknown":
            posted.open = True

    def _read(self, http: httpx2.Client) -> None:
        known = [claim_id for posted in self.posted[-50:] for claim_id in posted.ids]
        paths = ["/claims?limit=20", "/top-provider", "/hello", *(f"/claims/{one}" for one in known[:4])]
        paths += [f"/claims/{one}/events" for one in known[:2]]
        self._ask(http, "GET", self._dice.choice(paths))

    def _ask(self, http: httpx2.Client, method: str, path: str, **content: Any) -> httpx2.Response | Exception:
        sent = time.monotonic()
        try:
            answer = http.request(method, path, **content)
        except httpx2.TransportError as error:
            self.lost[type(error).__name__] += 1
            self._stop.wait(0.05)
            return error
        fault = _fault(method, path, answer)
        self.answers.append(Answer(sent, time.monotonic(), answer.status_code, fault))
        return answer

    def operate(self) -> None:
        """An operator's turns instead: looks at dead letters, sends some again, gives a few up."""
        with httpx2.Client(base_url=self._url, timeout=20) as http:
            while not self._stop.wait(OPERATOR_PAUSE_S):
                listed = self._ask(http, "GET", "/dead-letters?state=reversed&limit=20")
                if isinstance(listed, Exception) or listed.status_code != 200 or not listed.json()["items"]:
                    continue
                letter = self._dice.choice(listed.json()["items"])
                verb = "discard" if self._dice.random() < 0.2 else "redrive"
                self._ask(http, "POST", f"/dead-letters/{letter['id']}/{verb}")


def _fault(method: str, path: str, answer: httpx2.Response) -> str | None:
    """What is wrong with an answer, whatever state the service is in."""
    status = answer.status_code
    asked = f"{method} {path.partition('?')[0]}"
    if status not in (200, 201, 202, 409, 410, 422, 503):
        return f"{asked} was answered {status}"
    if status >= 400 and answer.headers["content-type"] != "application/problem+json":
        return f"{asked} was answered {status} as {answer.headers['content-type']}"
    if status == 503 and "retry-after" not in answer.headers:
        return f"{asked} was answered 503 without Retry-After"
    if MARK in answer.text and (status >= 400 or (method == "GET" and path.startswith("/claims?"))):
        return f"{asked} was answered {status} with a subscriber id"
    return None


@contextmanager
def busy(url: str, seed: int) -> Iterator[Sequence[Client]]:
    """All clients, the last of them an operator, at work until the block ends."""
    stop = threading.Event()
    clients = [Client(url, number, seed, stop) for number in range(CLIENTS + 1)]
    threads = [threading.Thread(target=client.run) for client in clients[:-1]]
    threads.append(threading.Thread(target=clients[-1].operate))
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()
