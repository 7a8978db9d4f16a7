"""Nothing acknowledged is lost: processes are killed, stopped and cut off while claims come in."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx2
import pytest

from project import web
from project.tests.conftest import Run
from project.tests.load import Load, stored_ids
from project.tests.own_engines import Stall, migrate_with, own_postgres, restart, stalled
from project.tests.proxy import proxied_in_a_thread
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


def test_a_postgres_that_hangs_is_503_stores_nothing_refused_and_delays_no_stop(redis_url: str, tmp_path: Path) -> None:
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
            assert_sigterm_ends_soon(service, hanging)
            assert "Traceback" not in service.log.read_text()


def assert_sigterm_ends_soon(service: Service, hanging: Stall) -> None:
    """However many connections of the pool there are to say goodbye on."""
    with ThreadPoolExecutor(30) as dashboards:
        answers = dashboards.map(lambda _: service.http.get("/claims", headers={"Connection": "close"}), range(200))
        assert {answer.status_code for answer in answers} <= {200, 503}
    hanging.set()
    asked = time.monotonic()
    service.stop()
    assert time.monotonic() - asked < 8  # one by one they take twelve


def reads_are_503(service: Service) -> bool:
    """Whether the reads say that the database is away, too."""
    return all(service.http.get(path).status_code == 503 for path in ("/claims", "/readyz"))


def test_one_key_200_times_at_once_over_two_processes_makes_one_claim(serve: Run, database_url: str) -> None:
    with serve() as one, serve() as other, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda service: service.submit([line()], Idempotency_Key="once"), [one, other] * 100))
        codes = [answer.status_code for answer in answers]
        assert set(codes) <= {201, 409}, [answer.text for answer in answers if answer.status_code not in (201, 409)]
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


def lines_about(service: Service, event: str) -> int:
    return service.log.read_text().count(f'"{event}"')


def test_commits_that_are_cut_under_load_store_each_claim_once(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Four times COMMIT never arrives, four times its answer is lost; nobody at the other end notices."""

    with (
        proxied_in_a_thread(database_url) as proxy,
        running(tmp_path / "web", {"DATABASE_URL": proxy.url, "REDIS_URL": redis_url}) as service,
    ):
        with Load(service.url).on() as load:
            for cut in [proxy.drop_request, proxy.drop_answer_of] * 4:
                answers, cuts = len(load.answers), proxy.cuts
                wait_until(lambda seen=answers: len(load.answers) > seen + 40, "claims are coming in")  # type: ignore[misc]
                cut(b"COMMIT")
                wait_until(lambda seen=cuts: proxy.cuts > seen, "a commit is cut")  # type: ignore[misc]
        assert {answer.status_code for answer in load.answers} == {201}
        assert load.broken == 0
        assert load.accepted() == stored_ids(database_url)
        assert len(load.accepted()) == len(load.answers)
        assert lines_about(service, "commit_lost") == 8
        assert "Traceback" not in service.log.read_text()


def test_commits_of_which_nobody_knows_are_told_so_and_a_key_finds_out(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        proxied_in_a_thread(database_url) as proxy,
        running(tmp_path / "web", {"DATABASE_URL": proxy.url, "REDIS_URL": redis_url}) as service,
    ):
        service.accepted([line()])
        with Load(service.url).on() as load:
            wait_until(lambda: len(load.answers) > 40, "claims are coming in")
            proxy.drop_answer_of(b"COMMIT", and_refuse_connections=True)
            wait_until(lambda: proxy.cuts, "a commit is cut")
            keyed = service.submit([line()], Idempotency_Key="k")
            wait_until(lambda: any(answer.status_code == 503 for answer in load.answers), "the first 503")
            proxy.accept_connections()
            before = len(load.accepted())
            wait_until(lambda: len(load.accepted()) > before + 40, "claims are coming in again")
            again = service.accepted([line()], Idempotency_Key="k")
        refused = [answer for answer in [*load.answers, keyed] if answer.status_code != 201]
        assert {answer.status_code for answer in refused} == {503}
        assert all("retry-after" in answer.headers for answer in refused)
        unknown = {answer.json()["id"] for answer in refused if "id" in answer.json()}
        assert unknown
        assert {service.http.get(f"/claims/{claim_id}").status_code for claim_id in unknown} == {200}
        assert load.accepted() | unknown | {again["id"]} < stored_ids(database_url)
        assert len(stored_ids(database_url)) == len(load.accepted() | unknown | {again["id"]}) + 1
        assert lines_about(service, "commit_lookup_failed") == 1


async def test_reads_that_use_up_the_pool_are_503_while_intake_goes_on(serve: Run, database_url: str) -> None:
    """Dead letters are locked away, so each read of them holds a connection until its time is up."""
    with serve(DATABASE_POOL_SIZE="2") as service, ThreadPoolExecutor(8) as dashboards:
        locker = await asyncpg.connect(database_url)
        transaction = locker.transaction()
        await transaction.start()
        await locker.execute("LOCK TABLE dead_letter IN ACCESS EXCLUSIVE MODE")

        def read(path: str) -> httpx2.Response:
            return httpx2.get(f"{service.url}{path}", timeout=20)

        paths = ["/dead-letters"] * 6 + ["/claims", "/readyz"]
        reads = [dashboards.submit(read, path) for path in paths]
        accepted = []
        while not all(one.done() for one in reads):
            accepted.append(await asyncio.to_thread(service.submit, [line()]))
        answers = [one.result() for one in reads]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert [answer.status_code for answer in answers].count(503) >= 6
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
        assert max(answer.elapsed.total_seconds() for answer in answers) < 5
        assert {answer.status_code for answer in accepted} == {201}
        assert max(answer.elapsed.total_seconds() for answer in accepted) < 1
        await transaction.rollback()
        await locker.close()
        assert {read(path).status_code for path in paths} == {200}
        assert await asyncio.to_thread(stored_ids, database_url) == {answer.json()["id"] for answer in accepted}
        assert "Traceback" not in service.log.read_text()
