"""Where events go: a Redis stream or a Kafka topic, behind one small interface. Opened by `worker`, fed by `publisher`.

Both carry the same CloudEvents 1.0 JSON, structured mode. A hub tells for each event whether it was taken.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from project import cache
from project.settings import EventsSettings

CONTENT_TYPE = "application/cloudevents+json"
FIELD = "event"  # the one field of a stream's entry
KAFKA_TIMEOUT_MS = 5_000

_AWAY = (RedisError, KafkaError, OSError, TimeoutError)


class HubAway(Exception):
    """The hub cannot be reached, or did not take everything; what it took of a call is open."""


@dataclass(frozen=True, slots=True)
class Message:
    """An event ready to be sent: its claim, by which it is kept in order, and its CloudEvents JSON."""

    claim_id: str
    content: bytes


class EventHub(Protocol):
    """Takes messages of different claims; those of one claim come in separate calls, in order."""

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        """For each message whether the hub has it; HubAway when that is not known."""


# KEYS[1] the stream, ARGV[1] its length, then the messages: how many of them it has, counted from the first. One
# command for all, since the client takes 50 us for each command and answer (bench: saga).
_ADD_ALL = f"""
for number = 2, #ARGV do
    local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', '{FIELD}', ARGV[number])
    if type(added) == 'table' and added.err then
        return number - 2
    end
end
return #ARGV - 1
"""


class RedisStream:
    """Adds to a stream that forgets its oldest entries past about `length`."""

    def __init__(self, client: Redis, stream: str, length: int) -> None:
        self._stream = stream
        self._length = length
        self._add_all = client.register_script(_ADD_ALL)

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        """All messages in one round trip."""
        try:
            has = await self._add_all([self._stream], [self._length, *(message.content for message in messages)])
        except _AWAY as error:
            raise HubAway from error
        return [number < has for number in range(len(messages))]


class KafkaTopic:
    """Produces to a topic, partitioned by claim, acknowledged by all replicas in sync."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        """All messages in few requests; each acknowledged by itself."""
        headers = [("content-type", CONTENT_TYPE.encode())]
        try:
            sent = [
                await self._producer.send(self._topic, message.content, key=message.claim_id.encode(), headers=headers)
                for message in messages
            ]
        except _AWAY as error:
            raise HubAway from error
        taken = []
        for future in sent:
            try:
                await future
                taken.append(True)
            except KafkaError:
                taken.append(False)
        return taken


@asynccontextmanager
async def open_hub(settings: EventsSettings, redis_url: str) -> AsyncIterator[EventHub]:
    """The hub of EVENTS_URL, or without it a stream on `redis_url`. Raises HubAway when Kafka is not there."""
    url = settings.events_url or redis_url
    if not url.startswith("kafka://"):
        client = cache.create_client(url)
        try:
            yield RedisStream(client, settings.events_topic, settings.events_stream_length)
        finally:
            await client.aclose()
        return
    producer = AIOKafkaProducer(
        bootstrap_servers=urlsplit(url).netloc.split(","),
        enable_idempotence=True,
        acks="all",
        linger_ms=0,
        request_timeout_ms=KAFKA_TIMEOUT_MS,
    )
    try:
        try:
            await producer.start()
        except _AWAY as error:
            raise HubAway from error
        yield KafkaTopic(producer, settings.events_topic)
    finally:
        await producer.stop()
