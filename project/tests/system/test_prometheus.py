"""A real Prometheus over the running service: all that rules and dashboard name is there, and a scrape stays small."""

import asyncio
import gzip
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import httpx2
import pytest

from project.telemetry.metrics import ROUTES
from project.tests.keys import bearing, make_key
from project.tests.prometheus import Prometheus, watching
from project.tests.saga import Saga, performing
from project.tests.service import Service, line, running, wait_until
from project.tests.watching import PROMETHEUS, Selector, dashboard_expressions, read, rules, selectors

pytestmark = pytest.mark.system

SCOPES = ("claims:write", "claims:read", "providers:read", "operate")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
NPIS = 1_000_000
SCRAPE_S = 0.05
SCRAPE_SERIES = 1_500
OF_PROMETHEUS = {"ALERTS"}  # there while an alert is pending or fires


@dataclass
class Watched:
    """The whole service, and who watches it."""

    web: Service
    saga: Saga
    prometheus: Prometheus
    client: httpx2.Client


@pytest.fixture(scope="module")
def watched(
    shared_database_url: str, shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Four web processes, a worker, payments and Prometheus, after traffic of every kind."""
    folder = tmp_path_factory.mktemp("watched")
    settings = {"DATABASE_URL": shared_database_url, "REDIS_URL": shared_redis_url, "WEB_WORKERS": "4"}
    reader = make_key(shared_database_url, "prometheus", "metrics:read")["key"]
    client = bearing(make_key(shared_database_url, "client", *SCOPES)["key"])
    asyncio.run(_remember_providers(shared_database_url))
    with (
        performing(folder / "saga", shared_database_url, shared_redis_url) as saga,
        running(folder / "web", settings) as web,
        httpx2.Client(base_url=web.url, headers=client, timeout=20) as http,
    ):
        worker = saga.worker()
        with watching(folder / "prometheus", [web.url], [worker.url], reader) as prometheus:
            site = Watched(web, saga, prometheus, http)
            _traffic(site)
            yield site


async def _remember_providers(database_url: str) -> None:
    """A million NPIs, whose net fees add up to nothing, so that the books balance."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO provider_net_fee (provider_npi, net_fee, line_count) "
            "SELECT 1000000000 + number, CASE number % 2 WHEN 0 THEN number ELSE 1 - number END, 1 "
            f"FROM generate_series(0, {NPIS - 1}) AS number"
        )
    finally:
        await connection.close()


def _traffic(site: Watched) -> None:
    """Claims that are paid, refused and sent again; each route with each method; every way to be refused."""
    accepted = [site.client.post("/claims", json=[line(), line()]).json()["id"] for _ in range(30)]
    site.saga.await_quiet()
    site.saga.payments.behave(refuse_rate=1)
    gone = [site.client.post("/claims", json=[line()]).json()["id"] for _ in range(2)]
    site.saga.await_quiet()
    site.saga.payments.behave()
    letters = [one["id"] for one in site.client.get("/dead-letters").json()["items"]]
    site.client.post(f"/dead-letters/{letters[0]}/redrive")
    site.client.post(f"/dead-letters/{letters[1]}/discard")
    site.saga.await_quiet()
    for claim in (*accepted[:3], *gone, "not-an-id"):
        site.client.get(f"/claims/{claim}")
        site.client.get(f"/claims/{claim}/events")
    for path in sorted({path for _, path in ROUTES} | {"/nowhere"}):
        for method in METHODS:
            site.client.request(method, path.format(claim_id=accepted[0], letter_id=letters[0]))
            httpx2.request(method, f"{site.web.url}{path}")
    _refusals(site.client)


def _refusals(client: httpx2.Client) -> None:
    csv, as_json = {"Content-Type": "text/csv"}, {"Content-Type": "application/json"}
    assert client.post("/claims", json={"claim_number": "1", "lines": [line()]}).status_code == 201
    assert client.post("/claims", json={"claim_number": "1", "lines": [line()]}).status_code == 409
    assert client.post("/claims", json=[line(provider_npi="1", provider_fees=-1)]).status_code == 422
    assert client.post("/claims", content=b"{", headers=as_json).status_code == 400
    assert client.post("/claims", content=b"x", headers={"Content-Type": "image/png"}).status_code == 415
    packed = {**csv, "Content-Encoding": "gzip"}
    assert client.post("/claims", content=gzip.compress(b" " * 20_000_000), headers=packed).status_code == 413
    assert client.get("/claims?limit=0").status_code == 422
    assert client.get("/metrics").status_code == 403
    assert 429 in {client.get("/top-provider").status_code for _ in range(12)}


def named() -> list[Selector]:
    """All series that rules and dashboard name."""
    expressions = [*(str(rule["expr"]) for rule in rules()), *dashboard_expressions()]
    found = {selector for expression in expressions for selector in selectors(expression)}
    return sorted((one for one in found if one.metric not in OF_PROMETHEUS), key=lambda one: (one.metric, one.text))


def unanswered(prometheus: Prometheus, expressions: Iterable[str]) -> list[str]:
    """Those of the expressions that have no sample, after the time that two scrapes and an evaluation take."""
    left = list(expressions)

    def all_answered() -> bool:
        left[:] = [one for one in left if not prometheus.query(one)]
        return not left

    with suppress(AssertionError):
        wait_until(all_answered, "every expression has a sample")
    return left


def test_every_series_that_rules_and_dashboard_name_exists(watched: Watched) -> None:
    assert len(named()) > 60
    assert unanswered(watched.prometheus, [one.text for one in named()]) == []


def test_every_expression_is_answered(watched: Watched) -> None:
    assert unanswered(watched.prometheus, [one for one in dashboard_expressions() if "ALERTS" not in one]) == []
    assert watched.prometheus.failing_rules() == []


def test_the_names_of_metrics_are_as_they_should_be(watched: Watched) -> None:
    for url in (watched.web.url, watched.saga.workers[0].url):
        page = httpx2.get(f"{url}/metrics", headers=bearing(watched.prometheus.key)).raise_for_status().content
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nobody_is_woken_while_all_is_well(watched: Watched) -> None:
    assert watched.prometheus.firing() == {}


def test_a_scrape_stays_small(watched: Watched) -> None:
    jobs = read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    assert {job["job_name"] for job in jobs if job.get("sample_limit") == SCRAPE_SERIES} == {"web", "worker"}
    for job in ("web", "worker"):
        scrapes = f'{{job="{job}"}}[1m]'
        counted = f"count_over_time(scrape_duration_seconds{scrapes})"
        wait_until(lambda: (watched.prometheus.value(counted) or 0) >= 5, "five scrapes")  # noqa: B023
        median = watched.prometheus.value(f"quantile_over_time(0.5, scrape_duration_seconds{scrapes})")
        assert 0 < (median or 0) < SCRAPE_S
        most = watched.prometheus.value(f"max_over_time(scrape_samples_scraped{scrapes})") or 0
        assert 100 < most < SCRAPE_SERIES / 2
