"""Valkey is killed, emptied and stalled under load: intake, ranking and limiter go on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from project.engines.places import VALKEY_SOCKET, Places
from project.engines.process import Kept
from project.tests.load import Load, stored_ids
from project.tests.own_engines import own_valkey, restart_valkey
from project.tests.service import Service, line, running, wait_until

RANKED = "1497775530"
WAIT_S = 0.5  # how long an answer of Valkey is waited for
SLOW_MACHINE_S = 0.5


@dataclass(frozen=True)
class Cached:
    """A web service whose Valkey a test may hurt."""

    web: Service
    valkey: Kept
    places: Places

    def empty(self) -> None:
        """Everything in Valkey is gone."""
        with redis.Redis(unix_socket_path=str(self.places.sockets / VALKEY_SOCKET)) as client:
            client.flushall()


@pytest.fixture
def cached(database_url: str, tmp_path: Path) -> Iterator[Cached]:
    places = Places(tmp_path / "own")
    settings = {"DATABASE_URL": database_url, "TOP_PROVIDER_RATE_LIMIT": "1000/minute"}
    with own_valkey(places) as valkey, running(tmp_path / "web", settings | {"REDIS_URL": places.redis_url}) as web:
        yield Cached(web, valkey, places)
        assert "Traceback" not in web.log.read_text()


def shown(web: Service) -> float:
    """The net fee that the ranking shows for the one provider of the load; its answer must be a 200."""
    answer = web.http.get("/top-provider")
    assert answer.status_code == 200, answer.text
    return float(answer.json()[0]["net_fee"])


def shows_everything(cached: Cached, load: Load) -> bool:
    return shown(cached.web) == len(load.accepted())


def left(web: Service) -> int | None:
    """How many requests the limiter leaves us; None when it does not count."""
    told = web.http.get("/top-provider").headers.get("ratelimit")
    return None if told is None else int(told.split(";")[1].removeprefix("r="))


def test_valkey_killed_under_load_costs_nothing_but_the_count(cached: Cached, database_url: str) -> None:
    with Load(cached.web.url).on() as load:
        wait_until(lambda: len(load.answers) > 50, "claims are coming in")
        assert left(cached.web) is not None
        os.kill(cached.valkey.pid, signal.SIGKILL)
        wait_until(lambda: left(cached.web) is None, "the limiter no longer counts")
        before = shown(cached.web)
        wait_until(lambda: shown(cached.web) > before, "the ranking goes on from Postgres")
        restart_valkey(cached.valkey, cached.places)
        wait_until(lambda: left(cached.web) is not None, "the limiter counts again")
        before = shown(cached.web)
        wait_until(lambda: shown(cached.web) > before, "the ranking goes on")
    assert {answer.status_code for answer in load.answers} == {201}
    assert load.accepted() == stored_ids(database_url)
    wait_until(lambda: shows_everything(cached, load), "the ranking shows all claims")


def test_valkey_emptied_under_load_only_starts_the_count_anew(cached: Cached, database_url: str) -> None:
    with Load(cached.web.url).on() as load:
        wait_until(lambda: len(load.answers) > 50, "claims are coming in")
        counted = [left(cached.web) for _ in range(5)]
        assert counted == list(range(999, 994, -1))
        cached.empty()
        assert left(cached.web) == 999
        before = shown(cached.web)
        wait_until(lambda: shown(cached.web) > before, "the ranking goes on")
    assert {answer.status_code for answer in load.answers} == {201}
    assert load.accepted() == stored_ids(database_url)
    wait_until(lambda: shows_everything(cached, load), "the ranking shows all claims")


def seconds_of_ranking(web: Service) -> float:
    started = time.monotonic()
    shown(web)
    return time.monotonic() - started


def seconds_of_intake(web: Service) -> list[float]:
    """How long each claim so far was in the service's hands, as its log has it."""
    rows = [json.loads(row) for row in web.log.read_text().splitlines()]
    return [row["ms"] / 1000 for row in rows if (row.get("method"), row.get("route")) == ("POST", "/claims")]


def test_a_valkey_that_hangs_delays_dashboards_by_a_second_and_intake_not_at_all(cached: Cached) -> None:
    """The limiter waits once and the ranking once, whether connections stand or are to be made."""
    web = cached.web
    web.accepted([line(provider_fees=101)])
    shown(web)
    os.kill(cached.valkey.pid, signal.SIGSTOP)
    try:
        assert 2 * WAIT_S <= seconds_of_ranking(web) < 2 * WAIT_S + SLOW_MACHINE_S
        with Load(web.url, clients=2).on() as load, ThreadPoolExecutor(40) as dashboards:
            took = list(dashboards.map(lambda _: seconds_of_ranking(web), range(80)))
    finally:
        os.kill(cached.valkey.pid, signal.SIGCONT)
    assert max(took) < 2 * WAIT_S + SLOW_MACHINE_S + 1.0  # forty at once
    assert {answer.status_code for answer in load.answers} == {201}
    assert len(load.answers) > 50
    # The start of forty threads holds up the clients of this very process, each in the request that it has in hand, so
    # for these two the word of the service itself must do.
    assert sorted(answer.elapsed.total_seconds() for answer in load.answers)[-3] < WAIT_S
    wait_until(lambda: len(seconds_of_intake(web)) > len(load.answers), "all claims are in the log")
    assert max(seconds_of_intake(web)) < WAIT_S
    wait_until(lambda: left(web) is not None, "the limiter counts again")
