"""The whole service on engines of its own, every process of which chaos may hurt. Made by `trial`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from project.engines.places import Places
from project.engines.process import Kept
from project.tests.own_engines import migrate_with, own_postgres, own_valkey
from project.tests.saga import Saga, performing
from project.tests.service import Service, running

WORKERS = 2
# The ranking's and the limiter's database may be emptied at any time; the stream of events may not.
CACHE_DATABASE = 0
EVENTS_DATABASE = 1


@dataclass(frozen=True)
class Stack:
    """Everything that runs."""

    folder: Path
    places: Places
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
    with own_postgres(folder) as (places, postgres), own_valkey(places) as valkey:
        migrate_with(places.postgres_url, folder)
        cache_url = f"{places.redis_url}?db={CACHE_DATABASE}"
        with performing(folder / "saga", places.postgres_url, cache_url) as saga:
            settings = {
                "DATABASE_URL": places.postgres_url,
                "REDIS_URL": cache_url,
                "WEB_WORKERS": "2",
                "TOP_PROVIDER_RATE_LIMIT": "1000000/minute",
            }
            with running(folder / "web", settings) as web:
                for _ in range(WORKERS):
                    events_url = f"{places.redis_url}?db={EVENTS_DATABASE}"
                    saga.worker(EVENTS_URL=events_url, EVENTS_STREAM_LENGTH="10000000")
                yield Stack(folder, places, postgres, valkey, saga, web)
