"""What a worker does beside paying: it leads or follows, keeps house, and shows its gauges."""

import signal
import time
from datetime import timedelta

from project.tests.saga import Saga, Worker
from project.tests.service import line, wait_until

GAUGE = 'payments{state="due"}'


def leads(worker: Worker) -> bool:
    return worker.metric(GAUGE) is not None


def test_one_worker_shows_the_databases_gauges_and_another_takes_over(saga: Saga) -> None:
    first, second = saga.worker(), saga.worker()
    wait_until(lambda: leads(first) or leads(second), "one leads")
    leader, follower = (first, second) if leads(first) else (second, first)
    assert not leads(follower)
    leader.kill()
    wait_until(lambda: leads(follower), "the other leads")


def test_gauges_tell_what_is_in_the_queues(saga: Saga) -> None:
    saga.payments.behave(refuse_npis=["2222222222"])
    saga.submit(1, line(provider_npi="2222222222"))
    worker = saga.worker(PAYMENTS_ATTEMPTS="100")
    saga.await_quiet()
    saga.payments.behave(fail_rate=1)
    saga.submit(3)
    refused = 'dead_letters{reason="refused",state="reversed"}'
    wait_until(lambda: worker.metric(refused) == 1 and worker.metric(GAUGE) == 3, "the gauges are fresh", within_s=10)
    assert worker.metric('payments{state="reversing"}') == 0
    assert 0 < (worker.metric("oldest_unpaid_claim_seconds") or 0) < 60
    wait_until(lambda: worker.metric("ledger_difference_usd") == 0, "the books are read", within_s=10)
    wait_until(lambda: worker.metric("events_unpublished") == 0, "all events are published", within_s=10)


def test_every_promised_series_is_there_before_anything_happened(saga: Saga) -> None:
    worker = saga.worker()
    wait_until(lambda: worker.metric("claims_torn") is not None, "it leads, and has read the books")
    wait_until(lambda: worker.metric("payments_breaker_state") == 0, "payments has answered it")
    for sample in (
        'payment_attempts_total{result="unknown"}',
        'claims_given_up_total{reason="exhausted"}',
        "payments_breaker_state",
        "claim_accepted_to_paid_seconds_count",
        'dead_letters{reason="exhausted",state="waiting"}',
        "oldest_unpaid_claim_seconds",
        "events_unpublished",
        "ledger_difference_usd",
        "claims_torn",
        "saga_settle_batch_count",
        'saga_settle_failures_total{reason="statement"}',
        'payment_call_seconds_count{call="cancel"}',
    ):
        assert worker.metric(sample) == 0, sample


def test_whoever_takes_the_lead_looks_at_the_books_and_keeps_house_at_once(saga: Saga) -> None:
    saga.submit(2)
    saga.fetch("UPDATE provider_net_fee SET net_fee = net_fee + 0.01")
    saga.fetch("DELETE FROM payment WHERE claim_id = (SELECT id FROM claim LIMIT 1)")
    worker = saga.worker()
    wait_until(lambda: worker.metric("claims_torn") == 1, "a torn claim is told of", within_s=10)
    assert worker.metric("ledger_difference_usd") == 0.01
    kept = "housekeeping_done_timestamp_seconds"
    wait_until(lambda: time.time() - (worker.metric(kept) or 0) < 60, "house was kept", within_s=10)


def test_house_is_kept(saga: Saga) -> None:
    saga.payments.behave(refuse_rate=1)
    first = saga.worker()
    claims = saga.submit(4)
    saga.await_quiet()
    first.stop()
    keys = "INSERT INTO idempotency_key SELECT 'local', 'k' || n, gen_random_uuid(), '', now() - interval '25 h' FROM generate_series(1, $1) n"
    saga.fetch(keys, 2500)
    saga.fetch("INSERT INTO idempotency_key VALUES ('local', 'fresh', gen_random_uuid(), '')")
    old = "UPDATE dead_letter SET closed_at = closed_at - interval '91 days' WHERE claim_id = ANY($1)"
    saga.fetch(old, [claims[0].id, claims[1].id])
    saga.fetch("UPDATE dead_letter SET state = 'waiting' WHERE claim_id = $1", claims[1].id)
    saga.worker()
    wait_until(lambda: saga.told("house_kept"), "the house is kept")
    assert saga.fetch("SELECT key FROM idempotency_key") == [("fresh",)]
    kept = {row[0] for row in saga.fetch("SELECT claim_id FROM dead_letter")}
    assert kept == {claim.id for claim in claims[1:]}
    assert saga.told("house_kept")[0]["idempotency_key"] == 2500


def test_a_clock_that_was_set_back_puts_nothing_off(saga: Saga) -> None:
    leased, waiting = saga.submit(2)
    hour = "UPDATE payment SET next_attempt_at = now() + interval '1 h', leased_until = now() + $2 WHERE claim_id = $1"
    saga.fetch(hour, leased.id, timedelta(hours=1))
    saga.fetch(hour, waiting.id, None)
    saga.worker()
    saga.await_quiet(within_s=10)


def test_ctrl_c_ends_a_worker_in_order(saga: Saga) -> None:
    worker = saga.worker()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(20) == 0
    assert saga.told("stopped")


def test_claims_names_their_subscribers_nowhere(saga: Saga) -> None:
    saga.payments.behave(refuse_rate=0.5, fail_rate=0.2)
    worker = saga.worker(LOG_LEVEL="debug")
    saga.submit(30, line(subscriber_id="MARKED-4711"))
    saga.await_quiet()
    assert "MARKED" not in saga.logs()
    assert "MARKED" not in worker.http.get("/metrics").text
    assert saga.fetch("SELECT count(*) FROM claim_event WHERE claim_event::text LIKE '%MARKED%'") == [(0,)]
    assert saga.fetch("SELECT count(*) FROM payment WHERE payment::text LIKE '%MARKED%'") == [(0,)]
