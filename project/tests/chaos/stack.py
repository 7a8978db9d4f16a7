"""The whole service on engines of its own, every process of which chaos may hurt. Made by `trial`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from project.engines.places import Places
from project.engines.process import Kept
from project.tests.own_engines import migrate_with, own_postgres, own_valkey
from project.tests.proxy import Proxy, proxied_in_a_thread
from project.tests.saga import Saga, performing
from project.tests.service import Service, running

WORKERS = 2
# The ranking's and the limiter's database may be emptied at any time; the stream of events may not.
CACHE_DATABASE = 0
EVENTS_DATABASE = 1


@dataclass(frozen=True)
class Stack:
    """Everything that runs. The way of all connections to Postgres leads through the proxy."""

    folder: Path
    places: Places
    proxy: Proxy
    postgres: Kept
    valkey: Kept
    saga: Saga
    web: Service

    def takes_connections(self) -> bool:
        """Whether Postgres does."""
        try:
            return self.saga.fetch("SELECT 1") == [(1,)]
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    def logs(self) -> str:
        """Everything that any process has logged."""
        engines = [log.read_text() for log in sorted(self.places.logs.iterdir())]
        return "".join([self.web.log.read_text(), self.saga.logs(), *engines])


@contextmanager
def standing(folder: Path) -> Iterator[Stack]:
    """Two web processes, two workers, a stand-in, Postgres and Valkey; stopped at the end."""
    with (
        own_postgres(folder) as (places, postgres),
        own_valkey(places) as valkey,
        proxied_in_a_thread(places.postgres_url) as proxy,
    ):
        migrate_with(places.postgres_url, folder)
        cache_url = f"{places.redis_url}?db={CACHE_DATABASE}"
        web_settings = {
            "DATABASE_URL": proxy.url,
            "REDIS_URL": cache_url,
            "WEB_WORKERS": "2",
            "TOP_PROVIDER_RATE_LIMIT": "1000000/minute",
        }
        worker_settings = {
            "DATABASE_URL": proxy.url,
            "EVENTS_URL": f"{places.redis_url}?db={EVENTS_DATABASE}",
            "EVENTS_STREAM_LENGTH": "10000000",
            # So little patience that payments may handle a call after the claim was given up.
            "PAYMENTS_READ_TIMEOUT_S": "0.5",
            "PAYMENTS_ATTEMPTS": "3",
        }
        with (
            performing(folder / "saga", places.postgres_url, cache_url) as saga,
            running(folder / "web", web_settings) as web,
        ):
            for _ in range(WORKERS):
                saga.worker(**worker_settings)
            yield Stack(folder, places, proxy, postgres, valkey, saga, web)
