"""The doctor sees every trouble that it looks for, and exits 1; a healthy service is told so."""

import json
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from typing import Any
from urllib.parse import urlsplit

import pytest

from project.doctor import listed
from project.engines.places import Places
from project.tests.conftest import new_database
from project.tests.payments.test_client import http, scripted
from project.tests.saga import Saga, performing
from project.tests.service import environment, line


def doctor(saga: Saga, **settings: str) -> tuple[int, dict[str, Any]]:
    urls = {"DATABASE_URL": saga.database_url, "PAYMENTS_URL": saga.payments.url} | settings
    argv = [sys.executable, "-m", "project", "doctor", "--json"]
    folder = saga.payments.log.parent
    done = subprocess.run(argv, env=environment(folder, **urls), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def settle(saga: Saga) -> None:
    """Ten claims, nine of them paid and one reversed, longer ago than a minute."""
    saga.payments.behave(refuse_npis=["2222222222"])
    worker = saga.worker()
    saga.submit(9, line(provider_fees=150.25))
    saga.submit(1, line(provider_npi="2222222222", provider_fees=999))
    saga.await_quiet()
    worker.stop()
    saga.fetch("UPDATE claim_event SET at = at - interval '2 min'")


@pytest.fixture(scope="module")
def settled(
    shared_database_url: str, shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saga]:
    """Those claims, for all tests to look at."""
    with performing(tmp_path_factory.mktemp("saga"), shared_database_url, shared_redis_url) as saga:
        settle(saga)
        yield saga


@pytest.fixture
def quiet(settled: Saga, places: Places) -> Iterator[Saga]:
    """Those claims in a database of the test's own; payments' ledger is only looked at."""
    with new_database(places, urlsplit(settled.database_url).path.removeprefix("/")) as url:
        own = copy(settled)
        own.database_url = url
        yield own


@pytest.fixture
def changing(saga: Saga) -> Saga:
    """Those claims where payments' ledger is the test's own, too."""
    settle(saga)
    return saga


def test_a_healthy_service_is_told_so(quiet: Saga) -> None:
    code, found = doctor(quiet)
    assert code == 0
    assert found == {
        "healthy": True,
        "difference": 0.0,
        "sums": {"lines": 452.25, "claims": 452.25, "providers": 452.25, "events": 452.25},
        "torn": 0,
        "stuck": [],
        "payments": {"claims": 9, "difference": 0.0, "disagreements": []},
    }
    assert "difference 0.00" in quiet.run("doctor")


@pytest.mark.parametrize(
    "trouble",
    [
        "UPDATE claim_line SET net_fee = net_fee + 0.01 WHERE claim_id = (SELECT id FROM claim LIMIT 1)",
        "UPDATE claim SET net_fee = net_fee + 0.01 WHERE id = (SELECT id FROM claim LIMIT 1)",
        "UPDATE provider_net_fee SET net_fee = net_fee - 0.01 WHERE line_count > 0",
        "DELETE FROM claim_event WHERE type = 'claim.reversed'",
    ],
)
def test_a_cent_that_is_missing_anywhere_is_found(quiet: Saga, trouble: str) -> None:
    quiet.fetch(trouble)
    code, found = doctor(quiet)
    assert (code, found["healthy"]) == (1, False)
    assert found["difference"] > 0


@pytest.mark.parametrize(
    "trouble",
    [
        "DELETE FROM payment WHERE claim_id = (SELECT id FROM claim LIMIT 1)",
        "UPDATE claim SET status = 'accepted' WHERE id = (SELECT id FROM claim LIMIT 1)",
        "UPDATE payment SET redrive_no = 3 WHERE claim_id = (SELECT id FROM claim LIMIT 1)",
    ],
)
def test_a_claim_that_contradicts_its_payment_is_found(quiet: Saga, trouble: str) -> None:
    quiet.fetch(trouble)
    code, found = doctor(quiet)
    assert (code, found["torn"]) == (1, 1)


def test_a_claim_that_nobody_settles_is_stuck(quiet: Saga) -> None:
    [claim] = quiet.submit()
    assert doctor(quiet)[0] == 0
    quiet.fetch("UPDATE claim_event SET at = at - interval '1 h' WHERE claim_id = $1", claim.id)
    code, found = doctor(quiet)
    assert code == 1
    assert found["stuck"] == [{"claim_id": str(claim.id), "state": "due", "attempts": 0, "last_error": None}]
    assert doctor(quiet, STUCK_AFTER="7200")[0] == 0
    assert "not called yet" in quiet.run_any("doctor")[0]


def pay(saga: Saga, key: str, amount: str) -> None:
    body = {"claim_id": key.partition(":")[0], "net_fee": amount, "currency": "USD", "providers": []}
    assert saga.payments.http.post("/payments", headers={"Idempotency-Key": key}, json=body).status_code == 201


def test_a_payment_that_nobody_owes_is_found(changing: Saga) -> None:
    [(claim_id,)] = changing.fetch("SELECT id FROM claim LIMIT 1")
    pay(changing, f"{claim_id}:1", "50.25")  # the same claim a second time
    code, found = doctor(changing)
    assert (code, found["payments"]["difference"], len(found["payments"]["disagreements"])) == (1, 50.25, 1)


def test_a_claim_that_was_never_paid_there_is_found(changing: Saga) -> None:
    [(claim_id,)] = changing.fetch("SELECT id FROM claim LIMIT 1")
    assert changing.payments.http.post("/payments/cancel", json={"idempotency_key": f"{claim_id}:0"}).status_code == 200
    code, found = doctor(changing)
    assert (code, found["payments"]["difference"]) == (1, -50.25)


def test_another_amount_there_is_found(quiet: Saga) -> None:
    quiet.fetch("UPDATE claim SET net_fee = net_fee + 1 WHERE id = (SELECT id FROM claim LIMIT 1)")
    assert doctor(quiet)[1]["payments"]["difference"] == -1


def test_what_moves_is_not_compared(changing: Saga) -> None:
    [claim] = changing.submit()
    pay(changing, f"{claim.id}:0", "0.00")  # paid there, not yet settled here
    assert doctor(changing)[0] == 0


@pytest.mark.parametrize("body", [b'{"items": ["x"]}', b'{"items": 7}', b"[]", b"\xff", b'{"items":' + b"[" * 60_000])
async def test_a_listing_that_is_none_is_not_compared(body: bytes) -> None:
    async with scripted() as (service, client):
        service.answer = http(200, body)
        assert await listed(client._url, "a-token") is None
        assert b"Authorization: Bearer a-token" in service.requests[0]


def test_a_service_that_does_not_list_its_payments_is_not_compared(quiet: Saga) -> None:
    code, found = doctor(quiet, PAYMENTS_URL="http://127.0.0.1:9")
    assert (code, found["payments"]) == (0, None)
