"""Nothing is paid twice, lost or left: processes are killed and stalled at every step of the saga."""

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest
import redis

from project.engines import launch, postgres, valkey
from project.engines.places import VALKEY_SOCKET, Places
from project.tests.conftest import kept
from project.tests.gate import Gate
from project.tests.proxy import proxied
from project.tests.saga import Saga, Worker, performing
from project.tests.service import line, wait_until

TAKEN_UP_WITHIN_S = 15.0


def kills(workers: list[Worker], path: str) -> object:
    """A hook that kills the first worker when this path is called, once."""
    killed: list[str] = []

    def hook(called: str) -> None:
        if called == path and not killed:
            killed.append(called)
            workers[0].kill()

    return hook


@pytest.mark.parametrize(
    ("when", "path", "refused"),
    [
        ("before", "/payments", False),  # leased, attempt counted, money not moved
        ("after", "/payments", False),  # money moved, nothing settled
        ("after", "/payments", True),  # refused, nothing settled
        ("before", "/payments/cancel", True),  # reversing, not cancelled
        ("after", "/payments/cancel", True),  # cancelled, not deleted
    ],
)
def test_a_worker_killed_at_any_step_is_followed_by_another(saga: Saga, when: str, path: str, refused: bool) -> None:
    if refused:
        saga.payments.behave(refuse_rate=1)
    with Gate(saga.payments.url).open() as gate:
        setattr(gate, when, kills(saga.workers, path))
        saga.worker(PAYMENTS_URL=gate.url)
        [claim] = saga.submit(1, line(provider_fees=181.25))
        wait_until(lambda: saga.workers[0].process.poll() is not None, "the worker was killed")
        killed = time.monotonic()
        if (when, path) != ("after", "/payments"):  # there the lease is waited for, elsewhere its end is brought near
            saga.fetch("UPDATE payment SET leased_until = now()")
        saga.worker(PAYMENTS_URL=gate.url)
        saga.await_event(claim.id, "reversed" if refused else "paid")
        assert time.monotonic() - killed < TAKEN_UP_WITHIN_S
        saga.reconcile({claim.id})
        assert gate.calls.count(path) == 2


def test_payments_killed_and_started_again_pays_each_claim_once(saga: Saga) -> None:
    saga.payments.behave(delay_ms=5)
    saga.worker(PAYMENTS_CONCURRENCY="8", PAYMENTS_ATTEMPTS="50")
    claims = saga.submit(600, line(provider_fees=101))
    for _ in range(3):
        before = len(saga.payments.paid())
        wait_until(lambda seen=before: len(saga.payments.paid()) > seen + 20, "payments are made")  # type: ignore[misc]
        saga.payments.kill()
        saga.payments.start_again()
    saga.await_quiet()
    assert saga.reconcile({claim.id for claim in claims}) == (600, 0)


def test_a_stalled_worker_that_wakes_after_its_claim_was_paid_changes_nothing(saga: Saga) -> None:
    with Gate(saga.payments.url).open() as gate:
        gate.after = lambda path: saga.workers[0].process.send_signal(signal.SIGSTOP)
        stalled = saga.worker(PAYMENTS_URL=gate.url)
        [claim] = saga.submit(1, line(provider_fees=101))
        wait_until(lambda: gate.calls, "the first worker calls")
        started = time.monotonic()
        saga.worker()
        saga.await_event(claim.id, "paid")
        assert time.monotonic() - started < TAKEN_UP_WITHIN_S
        stalled.process.send_signal(signal.SIGCONT)
        wait_until(lambda: saga.told("lease_lost"), "the stalled worker sees that it was too late")
        assert saga.history(claim.id) == ["accepted", "paid"]
        assert saga.reconcile({claim.id}) == (1, 0)


def test_a_stalled_worker_that_wakes_after_a_redrive_changes_nothing(saga: Saga) -> None:
    """It has the first key's payment in its hands; meanwhile that was cancelled, and the claim waits under another."""
    lost = threading.Event()
    with Gate(saga.payments.url).open() as gate, Gate(saga.payments.url).open() as silent:
        gate.after = lambda path: saga.workers[0].process.send_signal(signal.SIGSTOP)
        silent.before = lambda path: lost.wait(60)
        stalled = saga.worker(PAYMENTS_URL=gate.url)
        [claim] = saga.submit(1, line(provider_fees=101))
        wait_until(saga.payments.paid, "the first worker's call has paid")
        # Given up in its place, as a second worker without luck would have done, and the lease is over.
        key = f"{claim.id}:0"
        saga.fetch("UPDATE payment SET leased_until = now(), attempts = 9")
        nowhere = saga.worker(PAYMENTS_URL=silent.url, PAYMENTS_READ_TIMEOUT_S="0.2")
        wait_until(lambda: saga.history(claim.id)[-1] == "reversing", "it is given up")
        nowhere.stop()
        saga.fetch("UPDATE payment SET leased_until = now(), next_attempt_at = now()")
        reverser = saga.worker()
        saga.await_event(claim.id, "reversed", within_s=40)
        reverser.stop()
        assert saga.payments.paid() == {}
        lost.set()  # what it had asked for arrives now
        [(letter,)] = saga.fetch("SELECT id FROM dead_letter")
        saga.run("dead-letters", "redrive", str(letter))
        gate.after = lambda path: None
        stalled.process.send_signal(signal.SIGCONT)
        wait_until(lambda: stalled.metric("saga_fenced_total"), "the stalled worker sees that it was too late")
        assert saga.payments.paid().keys() <= {f"{claim.id}:1"}
        saga.await_event(claim.id, "paid")
        assert list(saga.payments.paid()) == [f"{claim.id}:1"] != [key]
        assert saga.reconcile({claim.id}) == (1, 0)


def test_a_post_that_payments_handles_after_the_reversal_pays_nothing(saga: Saga) -> None:
    """The call is on its way for longer than all attempts take; the claim is reversed meanwhile."""
    arrives = threading.Event()
    with Gate(saga.payments.url).open() as gate:

        def held(path: str) -> None:
            if path == "/payments":
                arrives.wait(60)

        gate.before = held
        saga.worker(PAYMENTS_URL=gate.url, PAYMENTS_ATTEMPTS="1", PAYMENTS_READ_TIMEOUT_S="0.5")
        [claim] = saga.submit(1, line(provider_fees=181.25))
        saga.await_event(claim.id, "reversed")
        assert saga.fetch("SELECT reason, detail FROM dead_letter") == [("exhausted", "no answer in time")]
        assert gate.answers == [200]
        arrives.set()
        wait_until(lambda: len(gate.answers) == 2, "the call has been handled")
        assert gate.answers == [200, 409]
    assert saga.payments.paid() == {}
    saga.reconcile({claim.id})


def test_two_workers_given_one_payment_pay_once(saga: Saga) -> None:
    """A lease that is over too early puts both into the same call."""
    saga.payments.behave(delay_ms=1000)
    for _ in range(2):
        saga.worker()
    claims = saga.submit(20, line(provider_fees=101))
    for _ in range(20):
        saga.fetch("UPDATE payment SET leased_until = now() WHERE state = 'due'")
        time.sleep(0.05)  # the leases are taken away again and again while the calls run
    saga.await_quiet()
    assert saga.reconcile({claim.id for claim in claims}) == (20, 0)
    assert sum(worker.metric("saga_fenced_total") or 0 for worker in saga.workers) > 0
    assert [saga.history(claim.id) for claim in claims] == [["accepted", "paid"]] * 20


def test_killed_workers_and_misbehaving_payments_leave_no_claim_behind(saga: Saga) -> None:
    dice = random.Random(8)
    saga.payments.behave(refuse_rate=0.1, fail_rate=0.1, drop_after_commit_rate=0.2, garbage_rate=0.1, delay_ms=30)
    for _ in range(2):
        saga.worker(PAYMENTS_CONCURRENCY="16")
    claims = saga.submit(400, line(provider_fees=120), line(provider_npi="1111111111"))
    for _ in range(6):
        victim = dice.choice(saga.workers)
        victim.kill()
        victim.start_again()
        time.sleep(dice.random() / 2)  # at random moments
    saga.await_quiet(within_s=90)
    paid, taken_back = saga.reconcile({claim.id for claim in claims})
    assert paid + taken_back == 400
    assert taken_back > 0


def test_postgres_killed_under_the_saga_loses_and_doubles_nothing(tmp_path: Path) -> None:
    places = Places(tmp_path / "engines")
    launch.prepare(places)
    postgres.initialise(places)
    program = postgres.program(places)
    with (
        kept(valkey.program(places), lambda: valkey.is_ready(places)),
        kept(program, lambda: postgres.is_ready(places)) as server,
    ):
        postgres.create_database(places)
        with performing(tmp_path / "saga", places.postgres_url, places.redis_url) as saga:
            saga.run("migrate")
            saga.payments.behave(delay_ms=20)
            saga.worker(PAYMENTS_CONCURRENCY="4")
            claims = saga.submit(300, line(provider_fees=101))
            for _ in range(3):
                before = len(saga.payments.paid())
                wait_until(lambda seen=before: len(saga.payments.paid()) > seen + 10, "payments are made")  # type: ignore[misc]
                os.killpg(server.pid, signal.SIGKILL)
                wait_until(lambda: server.exit_code is not None, "Postgres is dead")
                server.kill_rest()
                postgres.forget_dead_server(places)
                server.start()
                wait_until(lambda: postgres.is_ready(places), "Postgres is back")
            saga.await_quiet()
            assert saga.reconcile({claim.id for claim in claims}) == (300, 0)


async def test_a_settlement_that_waits_for_the_database_is_told_once(saga: Saga) -> None:
    """The database goes while payments is called: what came of the call is kept, and written when it is back."""
    saga.payments.behave(delay_ms=1000)

    def called(worker: Worker) -> bool:
        return worker.metric('saga_in_flight{lane="pay"}') == 1

    def has_tried(worker: Worker) -> bool:
        return (worker.metric('saga_settle_failures_total{reason="database_away"}') or 0) >= 4

    async with proxied(saga.database_url) as proxy:
        worker = await asyncio.to_thread(saga.worker, DATABASE_URL=proxy.url)
        [claim] = await asyncio.to_thread(saga.submit)
        await asyncio.to_thread(wait_until, lambda: called(worker), "payments is called")
        proxy.refuse_connections()
        proxy.cut_all()
        await asyncio.to_thread(wait_until, lambda: has_tried(worker), "it was tried several times")
        proxy.accept_connections()
        await asyncio.to_thread(saga.await_event, claim.id, "paid")

        def told(event: str) -> int:
            return len([line for line in saga.told(event) if "lane" not in line])

        await asyncio.to_thread(wait_until, lambda: told("database_back"), "it is told, after the commit")
        assert [told(event) for event in ("database_away", "database_back")] == [1, 1]
        assert await asyncio.to_thread(worker.stop) == 0
    assert await asyncio.to_thread(saga.reconcile, {claim.id}) == (1, 0)


def test_events_wait_for_the_hub_and_come_in_order(tmp_path: Path, database_url: str) -> None:
    """The hub is away, the worker is killed between settling and publishing, and then all is well again."""
    places = Places(tmp_path / "engines")
    launch.prepare(places)
    with performing(tmp_path / "saga", database_url, places.redis_url) as saga:
        worker = saga.worker()
        claims = saga.submit(30, line(provider_fees=101))
        saga.await_quiet()
        worker.kill()
        assert saga.fetch("SELECT count(*) FROM claim_event WHERE published_at IS NULL") == [(60,)]
        saga.worker()
        with kept(valkey.program(places), lambda: valkey.is_ready(places)):
            unpublished = "SELECT count(*) FROM claim_event WHERE published_at IS NULL"
            wait_until(lambda: saga.fetch(unpublished) == [(0,)], "everything is published")
            with redis.Redis(unix_socket_path=str(places.sockets / VALKEY_SOCKET)) as client:
                entries = client.xrange("claim-events")
            seen: dict[str, int] = {}
            for _, fields in entries:
                event = httpx2.Response(200, content=fields[b"event"]).json()
                assert event["data"]["seq"] == seen.get(event["subject"], 0) + 1
                seen[event["subject"]] = event["data"]["seq"]
            assert seen == {str(claim.id): 2 for claim in claims}
            assert 1 <= len(saga.told("event_hub_away")) <= 2  # once for each worker that led meanwhile
