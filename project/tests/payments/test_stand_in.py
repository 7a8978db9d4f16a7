"""The stand-in keeps the payments contract over real HTTP, survives a kill, and misbehaves as it is told."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from project.tests.saga import StandIn

CLAIM = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"


@pytest.fixture
def payments(tmp_path: Path) -> Iterator[StandIn]:
    started = StandIn(tmp_path / "payments")
    started.await_ready()
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


def pay(payments: StandIn, key: str = f"{CLAIM}:0", **changes: Any) -> httpx2.Response:
    body = {
        "claim_id": CLAIM,
        "net_fee": "20.00",
        "currency": "USD",
        "providers": [{"provider_npi": "1497775530", "net_fee": "20.00"}],
    }
    return payments.http.post("/payments", headers={"Idempotency-Key": key}, json=body | changes)


def cancel(payments: StandIn, key: str = f"{CLAIM}:0") -> httpx2.Response:
    return payments.http.post("/payments/cancel", json={"idempotency_key": key})


def test_a_key_pays_once_whatever_comes_with_it(payments: StandIn) -> None:
    first = pay(payments)
    assert (first.status_code, first.json()["status"]) == (201, "paid")
    again = pay(payments, net_fee="99.00")
    assert (again.status_code, again.json()) == (200, first.json())
    assert payments.http.post("/payments", headers={"Idempotency-Key": f"{CLAIM}:0"}, content=b"?").status_code == 200
    assert {key: str(amount) for key, amount in payments.paid().items()} == {f"{CLAIM}:0": "20.00"}


@pytest.mark.parametrize("amount", ["0.00", "-12.34", "9999999999999.99"])
def test_any_amount_is_paid_to_the_cent(payments: StandIn, amount: str) -> None:
    assert pay(payments, net_fee=amount).status_code == 201
    assert str(payments.paid()[f"{CLAIM}:0"]) == amount


def test_a_payment_is_found_by_its_key_or_not_yet(payments: StandIn) -> None:
    found = payments.http.get("/payments", params={"idempotency_key": f"{CLAIM}:0"})
    assert (found.status_code, found.headers["content-type"]) == (404, "application/problem+json")
    made = pay(payments).json()
    found = payments.http.get("/payments", params={"idempotency_key": f"{CLAIM}:0"})
    assert (found.status_code, found.json()["payment_id"]) == (200, made["payment_id"])


def test_a_cancelled_payment_is_not_paid_and_never_will_be(payments: StandIn) -> None:
    pay(payments)
    assert [cancel(payments).status_code for _ in range(2)] == [200, 200]
    assert payments.paid() == {}
    [item] = payments.http.get("/payments").json()["items"]
    assert (item["status"], item["net_fee"], item["idempotency_key"]) == ("cancelled", "20.00", f"{CLAIM}:0")
    assert pay(payments).status_code == 409
    assert pay(payments, key=f"{CLAIM}:1").status_code == 201


def test_a_key_that_was_cancelled_first_gets_409_whatever_the_dice_say(payments: StandIn) -> None:
    assert cancel(payments).status_code == 200
    assert payments.http.get("/payments").json() == {"items": []}
    for behaviour in ({}, {"refuse_rate": 1}, {"fail_rate": 1}, {"garbage_rate": 1}, {"drop_after_commit_rate": 1}):
        payments.behave(**behaviour)
        assert (pay(payments).status_code, pay(payments).json()) == (409, {"status": "cancelled"})


def test_one_key_at_once_is_one_payment(payments: StandIn) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: pay(payments), range(64)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 63}
    assert len({answer.json()["payment_id"] for answer in answers}) == 1


def test_what_was_answered_survives_a_kill(payments: StandIn) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: pay(payments, key=f"{CLAIM}:{number}"), range(100)))
    assert cancel(payments, key="never paid").status_code == 200
    payments.kill()
    payments.start_again()
    assert len(payments.paid()) == len(made) == 100
    assert pay(payments, key=f"{CLAIM}:7").json() == made[7].json()
    assert pay(payments, key="never paid").status_code == 409


def test_it_refuses_and_fails_without_paying(payments: StandIn) -> None:
    payments.behave(refuse_npis=["1497775530"])
    assert (pay(payments).status_code, pay(payments).json()["reason"]) == (402, "insufficient_funds")
    payments.behave(fail_rate=1)
    assert pay(payments).status_code == 503
    assert payments.paid() == {}


def test_it_takes_the_money_and_drops_the_connection_or_talks_garbage(payments: StandIn) -> None:
    payments.behave(drop_after_commit_rate=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        pay(payments)
    payments.behave(garbage_rate=1)
    assert b"payment_id" not in pay(payments, key=f"{CLAIM}:1").content
    assert payments.paid().keys() == {f"{CLAIM}:0", f"{CLAIM}:1"}
    assert [pay(payments).status_code, pay(payments, key=f"{CLAIM}:1").status_code] == [200, 200]


def test_rates_are_rates(payments: StandIn) -> None:
    payments.behave(refuse_rate=0.5)
    statuses = Counter(pay(payments, key=f"{CLAIM}:{number}").status_code for number in range(300))
    assert 100 < statuses[402] < 200
    assert statuses[201] == 300 - statuses[402]


def test_behaviour_is_changed_member_by_member_and_answered_whole(payments: StandIn) -> None:
    assert payments.http.put("/behaviour", json={"delay_ms": 3}).json()["delay_ms"] == 3
    told = payments.http.put("/behaviour", json={"refuse_rate": 0.25}).json()
    assert told == {
        "refuse_rate": 0.25,
        "fail_rate": 0.0,
        "drop_after_commit_rate": 0.0,
        "garbage_rate": 0.0,
        "delay_ms": 3,
        "refuse_npis": [],
    }
    for wrong in (
        {"refuse_rate": 1.5},
        {"fail_rate": "often"},
        {"delay_ms": -1},
        {"mood": "bad"},
        {"refuse_npis": "1"},
    ):
        refused = payments.http.put("/behaviour", json=wrong)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert payments.http.get("/behaviour").json() == told


@pytest.mark.parametrize(
    "changes",
    [
        {"claim_id": None},
        {"net_fee": 20.0},
        {"net_fee": "NaN"},
        {"net_fee": "twenty"},
        {"currency": "EUR"},
        {"providers": {}},
        {"providers": ["1497775530"]},
    ],
)
def test_what_is_no_payment_is_refused_as_a_bad_request(payments: StandIn, changes: dict[str, Any]) -> None:
    answer = pay(payments, **changes)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert payments.paid() == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_garbage_is_refused_as_a_bad_request(payments: StandIn, body: bytes) -> None:
    for path in ("/payments", "/payments/cancel"):
        assert payments.http.post(path, content=body, headers={"Idempotency-Key": "k"}).status_code == 400
    assert payments.http.post("/payments", json={}).status_code == 400
    assert payments.http.get("/elsewhere").headers["content-type"] == "application/problem+json"
