"""Events leave as CloudEvents, in each claim's order, at least once: to a Redis stream and to Kafka, the same way."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from confluent_kafka import Consumer, Producer

from project.notifications import publisher
from project.notifications.event_hub import EventHub, HubAway, Message, open_hub
from project.notifications.publisher import announce, publish_round
from project.settings import EventsSettings
from project.tests.rows import new_claim, store
from project.tests.service import ROOT, free_port, line, wait_until

SOURCE = "/claim_process"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def with_events(database_url: str, connection: Any, claims: int, events: int = 3) -> list[str]:
    """Claims with so many events each, none of them published; their ids."""
    made = [new_claim(line(subscriber_id="MARKED-4711", provider_fees=116.85)) for _ in range(claims)]
    await store(database_url, made)
    await connection.execute(
        "INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, detail) "
        "SELECT claim_id, n, gen_random_uuid(), 'claim.attempt_failed', now(), 'worker', client, amount, line_count, 'HTTP 503' "
        "FROM claim_event, generate_series(2, $1) AS n",
        events,
    )
    return [str(claim.id) for claim in made]


async def publish_all(connection: Any, hub: EventHub) -> int:
    """Rounds until nothing is left; how many events were taken."""
    total = 0
    while (round_ := await publish_round(connection, hub, SOURCE))[0]:
        total += round_[1]
    return total


def check(received: Sequence[bytes], ids: Sequence[str], events: int = 3) -> None:
    """Every event of every claim, once, in order."""
    seqs: dict[str, list[int]] = {}
    for content in received:
        event = json.loads(content)
        seqs.setdefault(event["subject"], []).append(event["data"]["seq"])
    assert seqs == {claim_id: list(range(1, events + 1)) for claim_id in ids}


def entries(redis_url: str, stream: str = "claim-events") -> list[bytes]:
    with redis.Redis.from_url(redis_url) as client:
        return [fields[b"event"] for _, fields in client.xrange(stream)]


async def test_a_redis_stream_gets_every_event_in_order(database_url: str, redis_url: str, connection: Any) -> None:
    ids = await with_events(database_url, connection, publisher.ROUND + 20)
    async with open_hub(EventsSettings(), redis_url) as hub:
        assert await publish_all(connection, hub) == 3 * len(ids)
    check(entries(redis_url), ids)


async def test_an_event_is_a_cloudevent_without_phi(database_url: str, redis_url: str, connection: Any) -> None:
    [claim_id] = await with_events(database_url, connection, 1, 2)
    async with open_hub(EventsSettings(events_topic="other"), redis_url) as hub:
        await publish_all(connection, hub)
    first, second = entries(redis_url, "other")
    assert b"MARKED" not in first + second
    assert b'"net_fee":16.85' in first
    event = json.loads(first)
    moment = datetime.fromisoformat(event.pop("time"))
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=1)
    assert event == {
        "specversion": "1.0",
        "id": f"{claim_id}/1",
        "source": SOURCE,
        "type": "claim.accepted",
        "subject": claim_id,
        "sequence": "0000000001",
        "datacontenttype": "application/json",
        "data": {
            "claim_id": claim_id,
            "seq": 1,
            "client": "local",
            "net_fee": 16.85,
            "line_count": 1,
            "actor": "local",
            "detail": None,
        },
    }
    assert json.loads(second)["data"]["detail"] == "HTTP 503"


async def test_a_stream_is_bounded(database_url: str, redis_url: str, connection: Any) -> None:
    await with_events(database_url, connection, 1000)
    async with open_hub(EventsSettings(events_stream_length=200), redis_url) as hub:
        await publish_all(connection, hub)
    assert 200 <= len(entries(redis_url)) < 500  # trimmed by whole nodes of the stream


async def test_kafka_gets_every_event_in_order_on_its_claims_partition(database_url: str, connection: Any) -> None:
    ids = await with_events(database_url, connection, 40)
    cluster = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 2})
    broker = cluster.list_topics("claim-events", timeout=10).brokers[1]
    address = f"{broker.host}:{broker.port}"
    async with open_hub(EventsSettings(events_url=f"kafka://{address}"), "") as hub:
        assert await publish_all(connection, hub) == 120
    messages = await asyncio.to_thread(consumed, address, 120)
    check([message.value() for message in messages], ids)
    assert all(json.loads(message.value())["subject"] == message.key().decode() for message in messages)
    assert messages[0].headers() == [("content-type", b"application/cloudevents+json")]
    partitions: dict[str, set[int]] = {}
    for message in messages:
        partitions.setdefault(message.key(), set()).add(message.partition())
    assert {len(one) for one in partitions.values()} == {1}
    assert len({message.partition() for message in messages}) > 1
    cluster.flush()


def consumed(address: str, count: int) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "t", "auto.offset.reset": "earliest"})
    consumer.subscribe(["claim-events"])
    messages: list[Any] = []
    while len(messages) < count:
        message = consumer.poll(20)
        assert message is not None, f"only {len(messages)} of {count} messages came"
        assert message.error() is None
        messages.append(message)
    consumer.close()
    return messages


@pytest.mark.parametrize("url", ["kafka://127.0.0.1:{port}", "redis://127.0.0.1:{port}"])
async def test_a_hub_that_is_away_says_so(database_url: str, connection: Any, url: str) -> None:
    await with_events(database_url, connection, 1)
    with pytest.raises(HubAway):
        async with open_hub(EventsSettings(events_url=url.format(port=free_port())), "") as hub:
            await publish_round(connection, hub, SOURCE)
    assert await connection.fetchval("SELECT count(*) FROM claim_event WHERE published_at IS NOT NULL") == 0


class Picky:
    """A hub that does not take what is marked, as a broker may."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.taken: list[bytes] = []

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        takes = [message.claim_id not in self.refused for message in messages]
        self.taken += [message.content for message, taken in zip(messages, takes, strict=True) if taken]
        return takes


async def test_after_a_refused_event_nothing_later_of_its_claim_is_sent(database_url: str, connection: Any) -> None:
    ids = await with_events(database_url, connection, 5)
    hub = Picky()
    hub.refused = {ids[2]}
    for _ in range(3):
        assert await publish_round(connection, hub, SOURCE) == (5, 4)
    check(hub.taken, [one for one in ids if one != ids[2]])
    hub.refused = set()
    assert await publish_all(connection, hub) == 3
    check(hub.taken, ids)


async def test_what_was_sent_and_not_marked_is_sent_again(database_url: str, connection: Any) -> None:
    ids = await with_events(database_url, connection, 2, 1)
    hub = Picky()
    await connection.execute("BEGIN")
    await publish_round(connection, hub, SOURCE)
    await connection.execute("ROLLBACK")  # as if the process had died between the two
    await publish_all(connection, hub)
    assert [json.loads(one)["subject"] for one in hub.taken] == ids * 2


async def test_announced_events_are_published_again_in_order(database_url: str, connection: Any) -> None:
    ids = await with_events(database_url, connection, 30)
    hub = Picky()
    await publish_all(connection, hub)
    await connection.execute("UPDATE claim_event SET at = at - interval '1 day' WHERE claim_id = $1", ids[0])
    hub.taken.clear()
    since = datetime.now(UTC) - timedelta(hours=1)
    assert sum([count async for count in announce(connection, since)]) == 87
    assert sum([count async for count in announce(connection, since)]) == 0
    assert await publish_all(connection, hub) == 87
    check(hub.taken, ids[1:])


async def test_announcing_never_leaves_a_later_event_alone(
    database_url: str, redis_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_events(database_url, connection, 300, 4)
    await publish_all(connection, Picky())
    gaps = (
        "SELECT count(*) FROM claim_event AS later JOIN claim_event AS earlier USING (claim_id) "
        "WHERE earlier.seq < later.seq AND earlier.published_at IS NOT NULL AND later.published_at IS NULL"
    )
    monkeypatch.setattr(publisher, "ANNOUNCED_CLAIMS", 7)  # many steps, each of which the publisher may see
    steps = 0
    async for _ in announce(connection, datetime.now(UTC) - timedelta(hours=1)):
        assert await connection.fetchval(gaps) == 0
        steps += 1
    assert steps > 40


async def published_twice(database_url: str, redis_url: str) -> list[str]:
    """Three claims of two events each, all of them in the stream twice; the claims' ids."""
    connection = await asyncpg.connect(database_url)
    ids = await with_events(database_url, connection, 3, 2)
    async with open_hub(EventsSettings(), redis_url) as hub:
        await publish_all(connection, hub)
        await connection.execute("UPDATE claim_event SET published_at = NULL")
        await publish_all(connection, hub)
    await connection.close()
    return ids


def test_the_example_consumer_reads_each_event_once(database_url: str, redis_url: str, tmp_path: Path) -> None:
    ids = asyncio.run(published_twice(database_url, redis_url))
    script = [sys.executable, str(ROOT / "docs" / "examples" / "consume_events.py"), redis_url, "readers"]
    printed = tmp_path / "printed"
    with printed.open("w") as output, subprocess.Popen(script, stdout=output, stderr=subprocess.STDOUT) as consumer:
        try:
            with redis.Redis.from_url(redis_url) as client:

                def done() -> bool:
                    groups = client.xinfo_groups("claim-events")
                    return bool(groups) and groups[0]["entries-read"] == 12 and groups[0]["pending"] == 0

                wait_until(done, "everything is read and acknowledged")
        finally:
            consumer.terminate()
    lines = [told.split() for told in printed.read_text().splitlines()]
    assert [(kind, claim) for _, kind, claim, _ in lines] == [
        (kind, claim) for kind in ("claim.accepted", "claim.attempt_failed") for claim in ids
    ]
