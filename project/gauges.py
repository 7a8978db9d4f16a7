"""Gauges that are read from the database, shown by the leading worker alone. Made by `worker`.

A process that does not lead shows none of them, so that no sum over processes counts a claim twice.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from project import audit
from project.ids import born_at

FULL_EVERY_S = 300.0  # the books, torn claims and the count of all paid claims read whole tables

_REASONS = ("refused", "exhausted")
_STATES = ("waiting", "reversed", "redriven", "discarded")


class DatabaseGauges(Collector):
    """Shows what `refresh` read last, until `forget`."""

    def __init__(self) -> None:
        self._backlog: audit.Backlog | None = None
        self._paid = 0
        self._difference = 0.0
        self._torn = 0
        self._full_at = 0.0

    async def refresh(self, connection: Any) -> None:
        """Reads the queues, and every FULL_EVERY_S seconds the books."""
        if not self._full_at or time.monotonic() - self._full_at >= FULL_EVERY_S:
            self._difference = float((await audit.books(connection)).difference)
            self._torn = await audit.torn(connection)
            self._paid = await audit.paid(connection)
            self._full_at = time.monotonic()
        self._backlog = await audit.backlog(connection)

    def forget(self) -> None:
        """Another process leads now."""
        self._backlog = None
        self._full_at = 0.0

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called at each scrape, in the metrics server's thread."""
        backlog = self._backlog
        if backlog is None:
            return
        payments = GaugeMetricFamily("payments", "Payments by state; `paid` every five minutes.", labels=["state"])
        for state, count in (("due", backlog.due), ("reversing", backlog.reversing), ("paid", self._paid)):
            payments.add_metric([state], count)
        yield payments
        letters = GaugeMetricFamily("dead_letters", "Dead letters by reason and state.", labels=["reason", "state"])
        for reason in _REASONS:
            for state in _STATES:
                letters.add_metric([reason, state], backlog.letters.get((reason, state), 0))
        yield letters
        oldest = backlog.oldest_due
        age_s = 0.0 if oldest is None else (datetime.now(UTC) - born_at(oldest)).total_seconds()
        yield GaugeMetricFamily("oldest_unpaid_claim_seconds", "Age of the oldest claim not paid yet.", max(age_s, 0.0))
        yield GaugeMetricFamily("events_unpublished", "Events that the hub has not taken yet.", backlog.unpublished)
        yield GaugeMetricFamily("ledger_difference_usd", "How far the books are apart; 0.", self._difference)
        yield GaugeMetricFamily("claims_torn", "Claims that contradict their payment; 0.", self._torn)
