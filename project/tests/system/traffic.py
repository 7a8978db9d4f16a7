"""Clients that post claims and read, through nginx, without a pause, and keep every answer. Used by the restarts and upgrades."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2

from project.tests.load import stored_ids
from project.tests.service import Service, line, wait_until
from project.tests.system.nginx import Nginx


class Traffic:
    """`accepted`: ids of acknowledged claims; `failed`: answers that were none; `slowest`: seconds of an answer."""

    def __init__(self, nginx: Nginx, key: str, posting: int = 6, reading: int = 2) -> None:
        self.accepted: list[str] = []
        self.failed: list[httpx2.Response | httpx2.TransportError] = []
        self.done = 0
        self.slowest = 0.0
        self._nginx = nginx
        self._key = key
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._go_on, args=(self._post,)) for _ in range(posting)]
        self._clients += [threading.Thread(target=self._go_on, args=(self._read,)) for _ in range(reading)]

    def _go_on(self, once: Callable[[httpx2.Client], httpx2.Response]) -> None:
        while not self._stop.is_set():
            with self._nginx.client(self._key) as client:
                for _ in range(50):  # then a new connection
                    if self._stop.is_set():
                        return
                    self._ask(client, once)

    def _ask(self, client: httpx2.Client, once: Callable[[httpx2.Client], httpx2.Response]) -> None:
        try:
            answer = once(client)
        except httpx2.TransportError as error:
            self.failed.append(error)
            return
        self.slowest = max(self.slowest, answer.elapsed.total_seconds())
        self.done += 1
        if answer.status_code not in (200, 201):
            self.failed.append(answer)

    def _post(self, client: httpx2.Client) -> httpx2.Response:
        answer = client.post("/claims", json=[line(), line(provider_fees=101)])
        if answer.status_code == 201:
            self.accepted.append(answer.json()["id"])
        return answer

    @staticmethod
    def _read(client: httpx2.Client) -> httpx2.Response:
        return client.get("/claims?limit=5")

    def await_more(self, answers: int = 100) -> None:
        """Until so many more came."""
        wanted = self.done + answers
        wait_until(lambda: self.done >= wanted, "the traffic goes on")

    @contextmanager
    def on(self) -> Iterator["Traffic"]:
        """From its first answers until the block ends, and then until those in hand are there."""
        for client in self._clients:
            client.start()
        try:
            self.await_more()
            yield self
        finally:
            self._stop.set()
            for client in self._clients:
                client.join()


def restart(service: Service, **changes: str) -> None:
    """As documented: SIGTERM, its end within the grace, another on the same port, ready."""
    assert service.stop() in (0, -signal.SIGTERM)
    service.start_again(**changes)


def assert_nothing_failed(traffic: Traffic, database_url: str) -> None:
    """And each claim that was acknowledged is there, once, and no other."""
    assert traffic.failed == []
    assert len(set(traffic.accepted)) == len(traffic.accepted)
    assert set(traffic.accepted) == stored_ids(database_url)
