"""The saga's way in real processes: paid, tried again, given up, reversed, redriven; and nobody in the way of it."""

import asyncio
import time
from decimal import Decimal
from pathlib import Path

import pytest

from project.tests.conftest import Run
from project.tests.proxy import proxied
from project.tests.saga import Saga
from project.tests.service import free_port, line, wait_until


def test_a_claim_is_paid_as_soon_as_it_is_accepted(saga: Saga, serve: Run) -> None:
    worker = saga.worker()
    with serve() as service:
        service.accepted([line()])  # the first of a process takes longer
        started = time.monotonic()
        claim = service.accepted([line(provider_fees=116.85)])
        wait_until(lambda: service.http.get(f"/claims/{claim['id']}").json()["status"] == "paid", "it is paid")
        assert time.monotonic() - started < 0.9  # woken, not found by the poll of each second
        assert saga.payments.paid()[f"{claim['id']}:0"] == Decimal("16.85")
        events = service.http.get(f"/claims/{claim['id']}/events").json()["items"]
        assert [(one["type"], one["actor"]) for one in events] == [
            ("claim.accepted", "local"),
            ("claim.paid", "worker"),
        ]
    assert worker.metric("claims_paid_total") == 2
    assert worker.metric('payment_attempts_total{result="paid"}') == 2


def test_work_is_found_without_any_wake_up(saga: Saga) -> None:
    worker = saga.worker()
    worker.await_ready()
    [claim] = saga.submit()
    saga.await_event(claim.id, "paid", within_s=10)


def test_a_refused_claim_is_reversed_and_gone_with_its_reason(saga: Saga, serve: Run) -> None:
    saga.payments.behave(refuse_npis=["2222222222"])
    saga.worker()
    with serve(TOP_PROVIDER_RATE_LIMIT="1000000/minute") as service:
        stays = service.accepted([line(provider_npi="1111111111", provider_fees=150)])
        body = {"claim_number": "N-1", "lines": [line(provider_npi="2222222222", provider_fees=181.25)]}
        goes = service.accepted(body, Idempotency_Key="k/1")
        wait_until(lambda: service.http.get(f"/claims/{goes['id']}").status_code == 410, "it is gone")
        gone = service.http.get(f"/claims/{goes['id']}").json()
        assert (gone["type"], gone["reason"]) == ("/problems/claim-reversed", "refused")
        letter = service.http.get(gone["dead_letter"]).json()
        assert (letter["claim_id"], letter["state"], letter["detail"]) == (goes["id"], "reversed", "insufficient_funds")
        assert letter["claim"]["lines"][0]["subscriber_id"] == "***"
        again = service.submit(body, Idempotency_Key="k/1")
        assert again.json()["dead_letter"] == gone["dead_letter"]
        as_row = {
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": "k",
        }  # the same request, as row 1 of a batch
        row = service.http.post("/claims/batch", content=again.request.content, headers=as_row).json()
        assert row == {"row": 1, **again.json(), "id": goes["id"]}
        events = service.http.get(f"/claims/{goes['id']}/events").json()["items"]
        assert [one["type"] for one in events] == ["claim.accepted", "claim.reversing", "claim.reversed"]
        ranking = [{"provider_npi": "1111111111", "net_fee": 50.0}]
        wait_until(lambda: service.http.get("/top-provider").json() == ranking, "the ranking is right", within_s=2)
        assert service.accepted(body)["id"] != goes["id"]  # its number is free again
        saga.await_quiet()
        saga.reconcile({claim for (claim,) in saga.fetch("SELECT DISTINCT claim_id FROM claim_event")})
        assert stays["id"] in saga.payments.paid().popitem()[0]


def test_a_redriven_claim_returns_under_its_own_id_and_is_paid(saga: Saga, serve: Run) -> None:
    saga.payments.behave(refuse_rate=1)
    saga.worker()
    with serve() as service:
        claim = service.accepted({"claim_number": "N-1", "lines": [line(provider_fees=181.25), line(quadrant="UR")]})
        before = service.http.get(f"/claims/{claim['id']}").json()
        wait_until(lambda: service.http.get(f"/claims/{claim['id']}").status_code == 410, "it is gone")
        saga.payments.behave()
        letter = service.http.get("/dead-letters").json()["items"][0]
        again = service.http.post(f"/dead-letters/{letter['id']}/redrive")
        assert (again.status_code, again.json()) == (202, {"claim_id": claim["id"], "redrive_no": 1})
        wait_until(lambda: service.http.get(f"/claims/{claim['id']}").json()["status"] == "paid", "it is paid")
        assert service.http.get(f"/claims/{claim['id']}").json() == before | {"status": "paid"}
        assert list(saga.payments.paid()) == [f"{claim['id']}:1"]
        assert service.http.post(f"/dead-letters/{letter['id']}/redrive").status_code == 409
        assert saga.reconcile({claim_id for (claim_id,) in saga.fetch("SELECT id FROM claim")}) == (1, 0)


def test_a_payment_that_never_works_is_given_up_after_five_attempts(saga: Saga) -> None:
    saga.payments.behave(fail_rate=1)
    worker = saga.worker()
    [claim] = saga.submit()
    saga.await_event(claim.id, "reversed", within_s=60)
    assert saga.history(claim.id) == ["accepted", *["attempt_failed"] * 4, "reversing", "reversed"]
    assert saga.fetch("SELECT reason, detail, attempts, state FROM dead_letter") == [
        ("exhausted", "HTTP 503", 5, "reversed")
    ]
    [(took,)] = saga.fetch("SELECT max(at) FILTER (WHERE type = 'claim.reversing') - min(at) FROM claim_event")
    assert took.total_seconds() < 60
    assert worker.metric('claims_given_up_total{reason="exhausted"}') == 1
    saga.reconcile({claim.id})


@pytest.mark.parametrize("fault", ["drop_after_commit_rate", "garbage_rate"])
def test_money_that_was_taken_without_an_answer_is_taken_once(saga: Saga, fault: str) -> None:
    saga.payments.behave(**{fault: 1})
    worker = saga.worker()
    claims = saga.submit(10, line(provider_fees=101))
    saga.await_quiet()
    assert saga.reconcile({claim.id for claim in claims}) == (10, 0)
    assert worker.metric('payment_attempts_total{result="unknown"}') == 10


def test_every_misbehaviour_at_once_ends_with_books_that_balance(saga: Saga) -> None:
    saga.payments.behave(
        refuse_rate=0.1,
        fail_rate=0.2,
        drop_after_commit_rate=0.2,
        garbage_rate=0.2,
        delay_ms=20,
        refuse_npis=["3333333333"],
    )
    for _ in range(2):
        saga.worker(PAYMENTS_ATTEMPTS="3")
    claims = saga.submit(200, line(provider_fees=120), line(provider_npi="1111111111", provider_fees=99))
    claims += saga.submit(20, line(provider_npi="3333333333", provider_fees=700))
    saga.await_quiet()
    paid, taken_back = saga.reconcile({claim.id for claim in claims})
    assert paid + taken_back == 220
    assert taken_back >= 20


def test_an_open_breaker_saves_attempts_but_reversals_and_intake_go_on(saga: Saga, serve: Run) -> None:
    saga.payments.behave(refuse_npis=["2222222222"])
    worker = saga.worker()
    wait_until(lambda: worker.metric("payments_breaker_state") == 0, "payments has answered it once")
    saga.payments.kill()
    with serve() as service:
        ids = [service.accepted([line(provider_fees=101)])["id"] for _ in range(60)]
        wait_until(lambda: worker.metric("payments_breaker_state") == 2, "the breaker is open")
        wait_until(lambda: worker.metric('saga_in_flight{lane="pay"}') == 0, "what was leased is called or given back")
        attempts = sum(count for (count,) in saga.fetch("SELECT attempts FROM payment"))
        late = service.accepted([line(provider_fees=102)])["id"]
        time.sleep(3)  # what must not happen needs its time: three polls, two probes
        assert sum(count for (count,) in saga.fetch("SELECT attempts FROM payment")) == attempts
        assert saga.history(saga.fetch("SELECT id FROM claim WHERE id = $1", late)[0][0]) == ["accepted"]
    saga.payments.start_again()
    started = time.monotonic()
    saga.await_quiet()
    assert time.monotonic() - started < 15
    assert worker.metric("payments_breaker_state") == 0
    assert saga.reconcile({row[0] for row in saga.fetch("SELECT id FROM claim")}) == (61, 0)
    assert len(ids) == 60
    wait_until(lambda: saga.told("payments_breaker_closed"), "it is told")
    assert [len(saga.told(f"payments_breaker_{state}")) for state in ("open", "closed")] == [1, 1]


def test_an_open_breaker_lets_reversals_pass(saga: Saga) -> None:
    """Payments pays nobody and answers no payment, but it does cancel."""
    saga.payments.behave(refuse_rate=1)
    [claim] = saga.submit(1, line(provider_fees=181.25))
    saga.fetch("UPDATE claim SET status = 'reversing'")
    saga.payments.behave(fail_rate=1)
    saga.submit(40)
    saga.worker()
    wait_until(lambda: saga.told("payments_breaker_open"), "so many calls have failed that the breaker is open")
    due_now = "UPDATE payment SET state = 'reversing', next_attempt_at = now(), leased_until = NULL WHERE claim_id = $1"
    saga.fetch(due_now, claim.id)
    saga.await_event(claim.id, "reversed", within_s=10)


def test_a_worker_that_is_asked_to_stop_finishes_what_it_has_in_hand(saga: Saga) -> None:
    saga.payments.behave(delay_ms=1500)
    worker = saga.worker()
    claims = saga.submit(20, line(provider_fees=101))
    wait_until(lambda: worker.metric('saga_in_flight{lane="pay"}') == 20, "all calls are in flight")
    assert worker.stop() == 0
    assert saga.fetch("SELECT state, count(*), sum(attempts) FROM payment GROUP BY 1") == [("paid", 20, 20)]
    assert saga.reconcile({claim.id for claim in claims}) == (20, 0)


def test_no_transaction_is_open_while_payments_is_called(saga: Saga) -> None:
    saga.payments.behave(delay_ms=1000)
    worker = saga.worker()
    saga.submit(5)
    wait_until(lambda: worker.metric('saga_in_flight{lane="pay"}') == 5, "all calls are in flight")
    held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    locks = "SELECT count(*) FROM pg_locks WHERE relation = 'payment'::regclass AND pid <> pg_backend_pid()"
    assert saga.fetch(held) == [(0,)]
    assert saga.fetch(locks) == [(0,)]
    saga.await_quiet()


def test_a_port_that_is_taken_is_one_line(saga: Saga, tmp_path: Path) -> None:
    first = saga.worker()
    port = first.url.rsplit(":", 1)[1]
    second = type(first)(tmp_path / "second", {"METRICS_PORT": port, "DATABASE_URL": saga.database_url})
    assert second.process.wait(20) == 1
    assert second.log.read_text().splitlines() == [
        f"claim_process: METRICS_PORT {port} cannot be used: Address already in use"
    ]
    second.close()


def test_a_worker_without_a_database_waits_for_it_in_one_line(saga: Saga, tmp_path: Path) -> None:
    worker = saga.worker(DATABASE_URL=f"postgresql://app@127.0.0.1:{free_port()}/claims")
    time.sleep(2)  # long enough for several tries
    lines = worker.log.read_text().splitlines()
    assert sum("waiting_for_database" in told for told in lines) == 2  # one for each lane
    assert worker.stop() == 0


def test_cut_connections_do_not_end_a_worker(saga: Saga) -> None:
    async def cut_again_and_again() -> None:
        async with proxied(saga.database_url) as proxy:
            worker = await asyncio.to_thread(saga.worker, DATABASE_URL=proxy.url)
            await asyncio.to_thread(wait_until, lambda: "leading" in worker.log.read_text(), "it leads")
            for _ in range(5):
                claims = await asyncio.to_thread(saga.submit, 20)
                assert proxy.cut_all()
                proxy.drop_answer_of(b"COMMIT;")
                for claim in claims:
                    await asyncio.to_thread(saga.await_event, claim.id, "paid")
            assert proxy.cuts >= 5
            assert await asyncio.to_thread(worker.stop) == 0

    asyncio.run(cut_again_and_again())
    saga.reconcile({claim_id for (claim_id,) in saga.fetch("SELECT id FROM claim")})


def test_a_listing_by_rare_status_finds_them_by_the_queues_index(saga: Saga, serve: Run) -> None:
    saga.payments.behave(refuse_rate=1)
    with serve() as service:
        claim = service.accepted([line()])
        assert [one["id"] for one in service.http.get("/claims?status=accepted").json()["items"]] == [claim["id"]]
        assert service.http.get("/claims?status=paid").json()["items"] == []
        assert service.http.get("/claims?status=reversing").json()["items"] == []
        saga.payments.behave()
        saga.worker()
        saga.await_quiet()
        assert [one["id"] for one in service.http.get("/claims?status=paid").json()["items"]] == [claim["id"]]
        assert service.http.get("/claims?status=accepted").json()["items"] == []
