"""Gauges that are read from the database, shown by the leading worker alone. Made by `worker`.

A process that does not lead shows none of them, so that no sum over processes counts a claim twice.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from project import audit
from project.ids import born_at

FULL_EVERY_S = 300.0  # the books, torn claims and the count of all paid claims read whole tables

_REASONS = ("refused", "exhausted")
_STATES = ("waiting", "reversed", "redriven", "discarded")


class _Books(NamedTuple):
    """What reads whole tables."""

    difference: float
    torn: int
    paid: int


class DatabaseGauges(Collector):
    """Shows what `refresh` read last, until `forget`."""

    def __init__(self) -> None:
        self._backlog: audit.Backlog | None = None
        self._books: _Books | None = None
        self._books_at = 0.0

    async def refresh(self, connection: Any) -> None:
        """Reads the queues, and every FULL_EVERY_S seconds the books.

        The queues first: that they are shown tells that somebody leads, and reading the books may take its time.
        """
        self._backlog = await audit.backlog(connection)
        if not self._books or time.monotonic() - self._books_at >= FULL_EVERY_S:
            self._books = _Books(
                difference=float((await audit.books(connection)).difference),
                torn=await audit.torn(connection),
                paid=await audit.paid(connection),
            )
            self._books_at = time.monotonic()

    def forget(self) -> None:
        """Another process leads now."""
        self._backlog = None
        self._books = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called at each scrape, in the metrics server's thread."""
        backlog = self._backlog
        if backlog is None:
            return
        payments = GaugeMetricFamily("payments", "Payments by state; `paid` every five minutes.", labels=["state"])
        payments.add_metric(["due"], backlog.due)
        payments.add_metric(["reversing"], backlog.reversing)
        if self._books:
            payments.add_metric(["paid"], self._books.paid)
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
        if self._books:
            difference, torn = self._books.difference, self._books.torn
            yield GaugeMetricFamily("ledger_difference_usd", "How far the books are apart; 0.", difference)
            yield GaugeMetricFamily("claims_torn", "Claims that contradict their payment; 0.", torn)
