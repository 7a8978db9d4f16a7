"""GET /top-provider over real HTTP: the ranking, its cache, its limit, and life without Redis."""

import asyncio
import json
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import asyncpg
import httpx2
import pytest
import redis

from project.engines.places import Places
from project.tests.conftest import Run
from project.tests.keys import bearing, make_key
from project.tests.own_engines import own_valkey
from project.tests.service import Service, free_port, line, running, wait_until

UNLIMITED = {"TOP_PROVIDER_RATE_LIMIT": "1000000/second"}


def ranking(service: Service, limit: int = 10) -> list[tuple[str, Decimal]]:
    """The ranking as it is shown."""
    answer = service.http.get("/top-provider", params={"limit": limit})
    assert answer.status_code == 200, answer.text
    return [(row["provider_npi"], row["net_fee"]) for row in json.loads(answer.text, parse_float=Decimal)]


def recomputed(database_url: str, limit: int = 10) -> list[tuple[str, Decimal]]:
    """The same from the lines, the slow way."""
    query = "SELECT provider_npi, sum(net_fee) FROM claim_line GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $1"

    async def ask() -> list[tuple[str, Decimal]]:
        connection = await asyncpg.connect(database_url)
        try:
            return [(row[0], row[1]) for row in await connection.fetch(query, limit)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def metric(service: Service, sample: str) -> float:
    """The value of a sample of /metrics; 0 when there is none yet."""
    for row in service.http.get("/metrics").text.splitlines():
        if row.startswith(f"{sample} "):
            return float(row.rsplit(" ", 1)[1])
    return 0.0


def test_it_equals_a_group_by_over_the_lines(service: Service) -> None:
    dice = random.Random(4711)
    for _ in range(40):
        lines = [
            line(
                provider_npi=f"{1000000000 + dice.randrange(150)}",
                provider_fees=f"{dice.randrange(50000) / 100:.2f}",
                allowed_fees=f"{dice.randrange(50000) / 100:.2f}",
            )
            for _ in range(20)
        ]
        service.accepted(lines)
    for limit in (1, 10, 100):
        expected = recomputed(service.database_url, limit)
        wait_until(lambda: ranking(service, limit) == expected, "the ranking shows the last claim")  # noqa: B023
    assert len(ranking(service, 100)) == 100


def test_ties_come_in_npi_order_and_negative_fees_last(serve: Run) -> None:
    with serve(**UNLIMITED) as service:
        assert ranking(service) == []
        fees = [("1000000001", 5), ("1000000002", 5), ("1000000003", 0), ("1000000004", -5)]
        wanted = [(npi, Decimal(fee)) for npi, fee in fees]
        service.accepted([line(provider_npi=npi, provider_fees=100 + fee) for npi, fee in reversed(fees)])
        wait_until(lambda: ranking(service) == wanted, "the ranking shows the claim")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=ten", "limit=", "colour=red"])
def test_a_bad_query_is_422(service: Service, query: str) -> None:
    answer = service.http.get(f"/top-provider?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_concurrent_misses_compute_once_over_two_processes(serve: Run) -> None:
    with serve(**UNLIMITED) as one, serve(**UNLIMITED) as other, ThreadPoolExecutor(20) as pool:
        one.accepted([line()])
        urls = [f"{service.url}/top-provider" for service in (one, other)] * 10
        answers = list(pool.map(httpx2.get, urls))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        made = [metric(service, "ranking_recompute_seconds_count") for service in (one, other)]
        assert sum(made) == 1
        assert sum(metric(service, 'ranking_cache_total{result="miss"}') for service in (one, other)) >= 1


def test_the_eleventh_request_of_a_minute_is_429_whichever_process_answers(serve: Run) -> None:
    with serve() as one, serve() as other:
        answers = [(one, other)[number % 2].http.get("/top-provider") for number in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == [
            f"r={left}" for left in range(9, -1, -1)
        ]
        assert answers[0].headers["ratelimit-policy"] == '"default";q=10;w=60'
        refused = one.http.get("/top-provider")
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
        assert metric(one, "limiter_refused_total") == 1


def test_of_many_at_once_so_many_pass_as_may_and_who_was_refused_stays_so(database_url: str, tmp_path: Path) -> None:
    places = Places(tmp_path / "engine")
    with own_valkey(places) as valkey:
        settings = {"DATABASE_URL": database_url, "REDIS_URL": places.redis_url}
        with running(tmp_path / "web", settings) as service, ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda _: service.http.get("/top-provider").status_code, range(30)))
            assert sorted(answers) == [200] * 10 + [429] * 20
            os.kill(valkey.pid, signal.SIGKILL)
            refused = service.http.get("/top-provider")
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= 60


def test_a_redis_that_has_forgotten_is_asked_again_soon(serve: Run, redis_url: str) -> None:
    with serve(TOP_PROVIDER_RATE_LIMIT="1/hour") as service:
        answers = [service.http.get("/top-provider") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        assert all(3500 < int(answer.headers["retry-after"]) <= 3600 for answer in answers[1:])
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        wait_until(lambda: service.http.get("/top-provider").status_code == 200, "Redis is asked again")


def test_another_client_is_not_affected(serve: Run) -> None:
    with serve() as service:
        for _ in range(11):
            last = service.http.get("/top-provider")
        assert last.status_code == 429
        elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
        with httpx2.Client(transport=elsewhere, base_url=service.url) as other:
            assert other.get("/top-provider").status_code == 200


def test_a_new_forwarded_address_each_time_does_not_help(serve: Run, database_url: str) -> None:
    key = make_key(database_url, "dashboard", "providers:read")["key"]
    with serve() as service:
        spoofed: list[dict[str, str]] = [
            {
                "X-Forwarded-For": f"10.0.0.{number}",
                "Forwarded": f"for=10.0.0.{number}",
                "X-Real-IP": f"10.0.0.{number}",
                **bearing(key),
            }
            for number in range(15)
        ]
        codes = [service.http.get("/top-provider", headers=headers).status_code for headers in spoofed]
        assert codes == [200] * 10 + [429] * 5


def test_the_limit_is_a_setting(serve: Run) -> None:
    with serve(TOP_PROVIDER_RATE_LIMIT="2/hour") as service:
        codes = [service.http.get("/top-provider").status_code for _ in range(3)]
        assert codes == [200, 200, 429]


def test_without_redis_it_answers_from_postgres_uncounted(database_url: str, tmp_path: Path) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with running(tmp_path / "web", {"DATABASE_URL": database_url, "REDIS_URL": nowhere}) as service:
        service.accepted([line(provider_fees=101)])
        for _ in range(12):
            assert ranking(service) == [("1497775530", Decimal("1.00"))]
        assert metric(service, "limiter_degraded_total") == 12
        assert "Traceback" not in service.log.read_text()
