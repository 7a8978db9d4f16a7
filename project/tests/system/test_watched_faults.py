"""Faults that are done to a running service wake somebody: shipped rules, shipped intervals, a real Prometheus."""

import time
from collections.abc import Callable
from pathlib import Path

import promql_parser
import pytest
import yaml

from project.tests.conftest import Run
from project.tests.keys import make_key
from project.tests.prometheus import Prometheus, Receiver, receiving, watching
from project.tests.saga import Saga, Worker
from project.tests.service import wait_until
from project.tests.watching import PROMETHEUS, alerts, read

pytestmark = pytest.mark.system

EVALUATION = promql_parser.parse_duration(read(PROMETHEUS / "prometheus.yml")["global"]["evaluation_interval"])
WITHIN_S = 2 * EVALUATION.total_seconds()


class Watch:
    """Notes when a fault was done, and waits for its alert."""

    def __init__(self, prometheus: Prometheus, receiver: Receiver) -> None:
        self._prometheus = prometheus
        self._receiver = receiver
        self._due: dict[str, float] = {}

    def inject(self, fault: Callable[[], object], *expected: str) -> None:
        """Does it; its alerts have two evaluation intervals from now."""
        assert not self._prometheus.firing().keys() & set(expected)
        self._due |= dict.fromkeys(expected, time.monotonic() + WITHIN_S)
        fault()

    def await_alerts(self) -> None:
        """Waits until all of them fire, each in its time, and somebody was told what to do."""
        for alert, due in sorted(self._due.items(), key=lambda item: item[1]):
            wait_until(lambda: alert in self._prometheus.firing(), f"{alert} fires", due - time.monotonic())  # noqa: B023
        for alert in self._due:
            told = wait_until(lambda: self._receiver.alerts.get(alert), f"{alert} was sent")  # noqa: B023
            assert told["labels"]["severity"] == alerts()[alert]["labels"]["severity"]
            assert told["annotations"]["runbook_url"] == alerts()[alert]["annotations"]["runbook_url"]
        self._due.clear()


def leader(prometheus: Prometheus, workers: list[Worker]) -> Worker:
    """The worker that shows the gauges of the database."""
    samples = wait_until(lambda: prometheus.query("oldest_unpaid_claim_seconds"), "a worker leads")
    address = samples[0]["metric"]["instance"]
    return next(one for one in workers if one.url.endswith(address))


def falsify(saga: Saga, leading: Worker) -> None:
    """A cent too much in one of the four sums, and a new leader, who looks at them at once."""
    saga.fetch("UPDATE provider_net_fee SET net_fee = net_fee + 0.01")
    leading.kill()


def refuse(saga: Saga) -> None:
    """Payments says no to thirty claims."""
    saga.payments.behave(refuse_rate=1)
    saga.submit(30)


def lose_payments(saga: Saga) -> None:
    """The payments service dies; more claims than the breaker's twenty want to be paid."""
    saga.payments.kill()
    saga.submit(30)


def test_each_fault_fires_its_alert_within_two_evaluation_intervals(serve: Run, saga: Saga, tmp_path: Path) -> None:
    key = make_key(saga.database_url, "prometheus", "metrics:read")["key"]
    workers = [saga.worker(), saga.worker()]
    saga.submit(1)
    saga.await_quiet()
    with (
        serve() as web,
        receiving() as receiver,
        watching(tmp_path / "prometheus", [web.url], [one.url for one in workers], key) as prometheus,
    ):
        targets = prometheus.etc / "alertmanagers" / "targets.yml"  # as the operator who has one puts it there
        targets.write_text(yaml.safe_dump([{"targets": [receiver.address]}]))
        leading = leader(prometheus, workers)
        [other] = [one for one in workers if one is not leading]
        watch = Watch(prometheus, receiver)
        watch.inject(lambda: falsify(saga, leading), "BooksDiffer", "TargetDown")
        watch.inject(lambda: refuse(saga), "RefusalsRise")
        wait_until(
            lambda: saga.fetch("SELECT 1 FROM dead_letter WHERE state = 'reversed' OFFSET 29"), "30 are reversed"
        )
        assert prometheus.failing_rules() == []
        seen = 'sum(claims_given_up_total{reason="refused"})'
        wait_until(lambda: prometheus.value(seen) == 30, "Prometheus has seen them")
        watch.inject(lambda: lose_payments(saga), "PaymentsBreakerOpen")
        watch.await_alerts()
        assert "NoWorker" not in prometheus.firing()
        watch.inject(other.kill, "NoWorker")
        watch.await_alerts()
