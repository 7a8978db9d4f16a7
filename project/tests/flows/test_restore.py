"""The drill of docs/operations.md: back up while claims come in, lose everything, restore to a point in time."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from project.tests.load import Load
from project.tests.operations import Operator
from project.tests.saga import StandIn
from project.tests.service import wait_until
from project.tests.site import Site, serving

REFUSED = "2222222222"
TABLES = "claim, claim_line, claim_number, idempotency_key, payment, dead_letter, claim_event, provider_net_fee"


def settings(payments: StandIn) -> dict[str, str]:
    return {"PAYMENTS_URL": payments.url, "PAYMENTS_ATTEMPTS": "100"}


@pytest.fixture
def payments(tmp_path: Path) -> Iterator[StandIn]:
    stand_in = StandIn(tmp_path / "payments")
    try:
        stand_in.await_ready()
        yield stand_in
    finally:
        stand_in.close()


def archiving(lost: Site) -> bool:
    try:
        return lost.fetch("SHOW archive_mode") == [("on",)]
    except (OSError, asyncpg.PostgresError):
        return False


class Disaster:
    """What was acknowledged before the point in time, what was in hand at it, and what came after."""

    def __init__(self, lost: Site, operator: Operator, payments: StandIn) -> None:
        operator.does("archive-on", "restart-database")
        wait_until(lambda: archiving(lost), "the archive is on")
        with Load(str(lost.http.base_url), clients=2).on() as load:
            wait_until(lambda: len(load.accepted()) > 20, "claims are coming in")
            operator.does("base-backup")
            before = len(load.accepted())
            wait_until(lambda: len(load.accepted()) > before + 50, "more claims are coming in")
        self.kept = load.accepted()
        payments.behave(fail_rate=1)
        self.due = {lost.accepted(provider_fees=170) for _ in range(3)}
        self.doomed = lost.accepted(provider_npi=REFUSED)
        [(self.point,)] = lost.fetch("SELECT clock_timestamp()")
        payments.behave(refuse_npis=[REFUSED])
        self.gone = {lost.accepted(provider_fees=180) for _ in range(3)}
        lost.await_quiet()
        assert lost.status_of(self.doomed) == 410
        lost.fetch(f"TRUNCATE {TABLES}")
        assert "archived_count" in operator.does("archive-look")
        [(archived, failed)] = lost.fetch("SELECT archived_count, failed_count FROM pg_stat_archiver")
        assert archived > 0
        assert failed == 0


@pytest.fixture
def disaster(tmp_path: Path, payments: StandIn) -> Disaster:
    with serving(tmp_path / "lost", **settings(payments)) as lost:
        return Disaster(lost, Operator(tmp_path / "lost", BACKUPS=str(tmp_path / "backups")), payments)


def test_a_point_in_time_is_restored_and_nothing_acknowledged_before_it_is_lost_or_paid_twice(
    tmp_path: Path, payments: StandIn, disaster: Disaster
) -> None:
    [base] = (tmp_path / "backups").glob("base-*")
    known = {
        "BACKUPS": str(tmp_path / "backups"),
        "BASE": str(base),
        "POINT": disaster.point.isoformat(),
        "SINCE": (disaster.point - timedelta(hours=1)).isoformat(),
        "PAYMENTS_URL": payments.url,
    }
    operator = Operator(tmp_path / "restored", **known)
    operator.does("restore")
    with serving(tmp_path / "restored", **settings(payments)) as restored:
        restored.await_quiet()
        assert restored.stored() == disaster.kept | disaster.due
        assert {restored.status_of(claim) for claim in disaster.gone} == {404}
        assert restored.status_of(disaster.doomed) == 410  # payments remembers that its key was cancelled
        books, torn = restored.books()
        assert books.difference == 0
        assert torn == 0
        lost = {f"{claim}:0" for claim in disaster.gone}
        assert payments.paid() == restored.paid() | dict.fromkeys(lost, Decimal("80.00"))
        assert set(operator.does("lost-payments").split()) == lost
        for key in lost:
            assert payments.http.post("/payments/cancel", json={"idempotency_key": key}).status_code == 200
        again = {restored.accepted(provider_fees=180) for _ in lost}
        restored.await_quiet()
        assert payments.paid() == restored.paid()
        assert {f"{claim}:0" for claim in again} <= restored.paid().keys()
        assert "events are published again" in operator.does("announce")
        assert "\nhealthy\n" in operator.does("difference", "torn", "leader", "oldest", "healthy", "end-of-restore")
        operator.does("archive-on", "restart-database")
        wait_until(lambda: archiving(restored), "the archive is on again")
        unpublished = "SELECT 1 FROM claim_event WHERE published_at IS NULL"
        wait_until(lambda: restored.fetch(unpublished) == [], "all events are published again")
