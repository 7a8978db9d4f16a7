"""The outbox: unpublished events, oldest claims first, sent to the hub in each claim's order and then marked.

Run by `worker` while it leads. A round takes the first unpublished event of each claim, so an event is never sent
before its predecessor was taken, whatever part of a round fails. Sent and not yet marked when the process dies: sent
again. That two processes publish at once would repeat events, but not disorder them; the lead only saves that work.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from typing import Any

import structlog
from opentelemetry.trace import SpanKind

from project import db, wire
from project.ids import rfc3339
from project.notifications.event_hub import EventHub, HubAway, Message
from project.telemetry import saga_metrics as metrics
from project.telemetry import tracing
from project.telemetry.logs import where

_log = structlog.get_logger("publisher")

ROUND = 500
POLL_S = 1.0
COALESCE_S = 0.02  # what comes within this time leaves in one round: a round costs as much as ten of its events
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
ANNOUNCED_CLAIMS = 500
UNTRACED = tracing.Step(None)

_COLUMNS = "claim_id, seq, type, at, actor, client, amount, line_count, detail, traceparent"
# $1 how many: the first unpublished event of each claim
UNPUBLISHED = f"""
SELECT DISTINCT ON (claim_id) {_COLUMNS} FROM claim_event
WHERE published_at IS NULL ORDER BY claim_id, seq LIMIT $1
"""
# $1 claim_id[], $2 seq[]
PUBLISHED = """
UPDATE claim_event SET published_at = now()
FROM unnest($1::uuid[], $2::int[]) AS sent (claim_id, seq)
WHERE claim_event.claim_id = sent.claim_id AND claim_event.seq = sent.seq
"""
# $1 since, $2 how many claims at a time, $3 when this began: a claim's events count as unpublished again all at once,
# so that the publisher never meets a later one without those before it
ANNOUNCE = """
WITH chosen AS (
    SELECT DISTINCT claim_id FROM claim_event WHERE at >= $1 AND published_at < $3 LIMIT $2
)
UPDATE claim_event SET published_at = NULL FROM chosen
WHERE claim_event.claim_id = chosen.claim_id AND at >= $1 AND published_at IS NOT NULL
"""
NOW = "SELECT now()"


def cloud_event(source: str, row: Any, traceparent: str | None = None) -> bytes:
    """An event as CloudEvents 1.0 JSON with the extensions `sequence` and, if it is part of a trace, `traceparent`.

    No PHI: ids, amounts (USD) and our own words.
    """
    traced = {} if traceparent is None else {"traceparent": traceparent}
    return wire.encode(
        {
            **traced,
            "specversion": "1.0",
            "id": f"{row['claim_id']}/{row['seq']}",
            "source": source,
            "type": row["type"],
            "subject": str(row["claim_id"]),
            "time": rfc3339(row["at"]),
            "sequence": f"{row['seq']:010}",  # compared as text
            "datacontenttype": "application/json",
            "data": {
                "claim_id": str(row["claim_id"]),
                "seq": row["seq"],
                "client": row["client"],
                "net_fee": row["amount"],
                "line_count": row["line_count"],
                "actor": row["actor"],
                "detail": row["detail"],
            },
        }
    )


async def publish_round(connection: Any, hub: EventHub, source: str) -> tuple[int, int]:
    """Sends one round and marks what was taken: how many were there, how many were taken."""
    rows: Sequence[Any] = await connection.fetch(UNPUBLISHED, ROUND)
    if not rows:
        return 0, 0
    taken = await _send(hub, source, rows)
    sent = [row for row, has in zip(rows, taken, strict=True) if has]
    if sent:
        await connection.execute(PUBLISHED, [row["claim_id"] for row in sent], [row["seq"] for row in sent])
    metrics.EVENTS_PUBLISHED.inc(len(sent))
    return len(rows), len(sent)


async def _send(hub: EventHub, source: str, rows: Sequence[Any]) -> Sequence[bool]:
    """Which of the events were taken; each that is part of a trace is a step of it."""
    steps = [_step(row) if row["traceparent"] else UNTRACED for row in rows]
    taken: Sequence[bool] = [False] * len(rows)
    try:
        taken = await hub.send(
            [
                Message(str(row["claim_id"]), cloud_event(source, row, step.traceparent))
                for row, step in zip(rows, steps, strict=True)
            ]
        )
    finally:
        for step, has in zip(steps, taken, strict=True):
            step.end(failed=not has)
    return taken


def _step(row: Any) -> tracing.Step:
    about: dict[str, str | int] = {"claim__id": str(row["claim_id"]), "claim__seq": row["seq"]}
    return tracing.begin(f"publish {row['type']}", SpanKind.PRODUCER, row["traceparent"], **about)


async def announce(connection: Any, since: datetime) -> AsyncIterator[int]:
    """Has all events at or after `since` sent again, in order; yields how many more after each step."""
    started = await connection.fetchval(NOW)
    while True:
        tag = await connection.execute(ANNOUNCE, since, ANNOUNCED_CLAIMS, started)
        if not (count := int(tag.rsplit(" ", 1)[-1])):
            return
        yield count


class Publisher:
    """Publishes until it is stopped; opens the hub, and opens it again after it was lost."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        open_hub: Callable[[], AbstractAsyncContextManager[EventHub]],
        source: str,
    ) -> None:
        self._connection = db.Reconnecting(connect)
        self._open_hub = open_hub
        self._source = source
        self._wake = asyncio.Event()
        self._away = False
        self._pause = FIRST_PAUSE_S

    def wake(self) -> None:
        """There may be something to publish."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled. What the hub or the database raise is told once and tried again."""
        try:
            while True:
                try:
                    async with self._open_hub() as hub:
                        await self._publish(hub)
                except Exception as error:  # noqa: BLE001  told once and tried again
                    self._told(error)
                    self._connection.drop()
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        finally:
            self._connection.drop()

    async def _publish(self, hub: EventHub) -> None:
        while True:
            found, taken = await publish_round(await self._connection.get(), hub, self._source)
            if taken < found:
                raise HubAway
            if self._away:
                _log.info("events_published_again")
            self._away, self._pause = False, FIRST_PAUSE_S
            if found < ROUND:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                await asyncio.sleep(COALESCE_S)
                self._wake.clear()

    def _told(self, error: Exception) -> None:
        of_hub = isinstance(error, HubAway)
        if of_hub:
            metrics.HUB_FAILURES.inc()
        if not self._away:  # told once, not at every try
            _log.warning("event_hub_away" if of_hub else "publishing_failed", error=where(error.__cause__ or error))
        self._away = True
