"""Nothing acknowledged is lost: processes are killed, stopped and cut off while claims come in."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from project import web
from project.tests.conftest import Run
from project.tests.load import Load, stored_ids
from project.tests.own_engines import migrate_with, own_postgres, restart, stalled
from project.tests.service import Service, line, running, wait_until
from project.tests.supervision import processes_of


@pytest.mark.parametrize("processes", [1, 4])
def test_sigterm_under_load_cuts_no_request_and_loses_nothing(serve: Run, database_url: str, processes: int) -> None:
    with serve(WEB_WORKERS=str(processes)) as service:
        with Load(service.url).on() as load:
            wait_until(lambda: len(load.answers) > 200, "claims are coming in")
            asked = time.monotonic()
            assert service.stop() in (0, -signal.SIGTERM)  # a lone process ends by the signal that it was sent
            assert time.monotonic() - asked < web.GRACE_S
        assert {answer.status_code for answer in load.answers} == {201}
        assert load.accepted() == stored_ids(database_url)
        assert "Traceback" not in service.log.read_text()


def test_web_killed_under_load_loses_nothing_acknowledged(serve: Run, database_url: str) -> None:
    with serve() as service:
        with Load(service.url).on() as load:
            wait_until(lambda: len(load.answers) > 200, "claims are coming in")
            service.process.kill()
            service.process.wait()
        assert load.accepted() <= stored_ids(database_url)
        assert len(stored_ids(database_url) - load.accepted()) <= 8  # answers that were on their way


def test_workers_do_not_outlive_their_killed_parent(serve: Run) -> None:
    with serve(WEB_WORKERS="2") as service:
        folder = service.log.parent
        assert len(processes_of(folder)) >= 3
        service.process.kill()  # the second worker may be still at its start, which is the hard case
        service.process.wait()
        wait_until(lambda: processes_of(folder) == [], "no process is left")


def test_postgres_killed_under_load_is_503_then_service_again_and_nothing_lost(redis_url: str, tmp_path: Path) -> None:
    with own_postgres(tmp_path) as (places, server):
        url = places.postgres_url
        migrate_with(url, tmp_path)
        with running(tmp_path / "web", {"DATABASE_URL": url, "REDIS_URL": redis_url}) as service:
            with Load(service.url).on() as load:
                wait_until(lambda: len(load.answers) > 200, "claims are coming in")
                os.kill(server.pid, signal.SIGKILL)
                wait_until(lambda: any(answer.status_code == 503 for answer in load.answers), "the first 503")
                assert reads_are_503(service)
                restart(server, places)
                before = len(load.accepted())
                wait_until(lambda: len(load.accepted()) > before + 200, "claims are coming in again")
            refused = [answer for answer in load.answers if answer.status_code != 201]
            assert {answer.status_code for answer in refused} == {503}
            assert all("retry-after" in answer.headers for answer in refused)
            assert load.broken == 0
            unknown = {
                answer.json()["id"] for answer in refused if answer.json()["type"] == "/problems/outcome-unknown"
            }
            assert load.accepted() <= stored_ids(url) <= load.accepted() | unknown
            assert "Traceback" not in service.log.read_text()


def test_a_postgres_that_hangs_is_503_and_what_was_refused_is_not_stored(redis_url: str, tmp_path: Path) -> None:
    with own_postgres(tmp_path) as (places, server):
        migrate_with(places.postgres_url, tmp_path)
        urls = {"DATABASE_URL": places.postgres_url, "REDIS_URL": redis_url}
        with running(tmp_path / "web", urls) as service, stalled(server, places) as hanging:
            claim = service.accepted([line()])
            for path in ("/claims", f"/claims/{claim['id']}", "/top-provider"):
                assert service.http.get(path).status_code == 200
            hanging.set()
            for path in ("/claims", f"/claims/{claim['id']}", f"/claims/{claim['id']}/events", "/readyz"):
                assert service.http.get(path).status_code == 503
            refused = service.submit([line()])
            assert refused.status_code == 503
            hanging.clear()
            later = service.accepted([line()])
            unknown = {refused.json().get("id")} - {None}
            assert {claim["id"], later["id"]} <= stored_ids(places.postgres_url) <= {claim["id"], later["id"]} | unknown


def reads_are_503(service: Service) -> bool:
    """Whether the reads say that the database is away, too."""
    return all(service.http.get(path).status_code == 503 for path in ("/claims", "/readyz"))


def test_one_key_200_times_at_once_over_two_processes_makes_one_claim(serve: Run, database_url: str) -> None:
    with serve() as one, serve() as other, ThreadPoolExecutor(50) as pool:
        urls = [f"{service.url}/claims" for service in (one, other)] * 100

        def post(url: str) -> Any:
            return httpx2.post(url, json=[line()], headers={"Idempotency-Key": "once"}, timeout=20)

        answers = list(pool.map(post, urls))
        codes = [answer.status_code for answer in answers]
        assert set(codes) <= {201, 409}
        made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
        assert len(made) == 1
        assert stored_ids(database_url) == made
        first = [
            answer for answer in answers if answer.status_code == 201 and "idempotent-replayed" not in answer.headers
        ]
        assert len(first) == 1
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 409)


def test_valkey_away_leaves_intake_and_ranking_alone(database_url: str, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    with running(tmp_path / "web", {"DATABASE_URL": database_url, "REDIS_URL": nowhere}) as service:
        claim = service.accepted([line(provider_fees=101)])
        assert service.http.get("/readyz").status_code == 200
        assert service.http.get("/top-provider").json() == [{"provider_npi": "1497775530", "net_fee": 1.00}]
        assert stored_ids(database_url) == {claim["id"]}
