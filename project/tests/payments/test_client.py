"""The payments client against a service that answers whatever a test wants, byte by byte, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest

from project.payments.client import (
    ANSWER_BYTES,
    CALL_S,
    Cancelled,
    Due,
    Paid,
    PaymentsClient,
    Refused,
    Result,
    Unavailable,
    Unknown,
)
from project.settings import PaymentsSettings
from project.tests.service import free_port

DUE = Due(UUID(int=7), 2, 1, 1, "20.00", b'[{"provider_npi":"1497775530","net_fee":"20.00"}]')
PAID = b'{"payment_id": "p-1", "status": "paid"}'


def http(status: int, body: bytes, *headers: str) -> bytes:
    """An HTTP/1.1 answer."""
    head = "".join(f"{header}\r\n" for header in (f"Content-Length: {len(body)}", *headers))
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


class Scripted:
    """Answers each request with `answer`, and keeps what it was sent. `then_close` cuts the connection after it."""

    def __init__(self) -> None:
        self.answer = http(201, PAID)
        self.then_close = False
        self.drip_s: float | None = None
        self.requests: list[bytes] = []
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (
                        int(one.split(b":")[1])
                        for one in head.lower().split(b"\r\n")
                        if one.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                await self._answer(writer)
                if self.then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.drip_s is None:
            writer.write(self.answer)
            await writer.drain()
            return
        for position in range(len(self.answer)):
            writer.write(self.answer[position : position + 1])
            await writer.drain()
            await asyncio.sleep(self.drip_s)


@asynccontextmanager
async def scripted(**settings: float) -> AsyncIterator[tuple[Scripted, PaymentsClient]]:
    """A scripted service, and a client of it."""
    service = Scripted()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chosen = PaymentsSettings(payments_token="secret-token", **settings)  # type: ignore[arg-type]
    async with PaymentsClient(f"http://127.0.0.1:{port}", chosen) as client:
        yield service, client
    server.close()
    for task in service.tasks:
        task.cancel()
    await asyncio.gather(*service.tasks, return_exceptions=True)


async def paid_with(answer: bytes, *, then_close: bool = False) -> Result:
    """What the client makes of an answer to a payment."""
    async with scripted() as (service, client):
        service.answer, service.then_close = answer, then_close
        return await client.pay(DUE)


async def test_a_payment_is_asked_for_as_the_contract_says() -> None:
    async with scripted() as (service, client):
        assert await client.pay(DUE) == Paid("p-1")
        [request] = service.requests
    head, body = request.split(b"\r\n\r\n", 1)
    assert head.startswith(b"POST /payments HTTP/1.1\r\n")
    assert b"\r\nIdempotency-Key: 00000000-0000-0000-0000-000000000007:2\r\n" in head + b"\r\n"
    assert b"\r\nContent-Type: application/json\r\n" in head + b"\r\n"
    assert b"\r\nAuthorization: Bearer secret-token\r\n" in head + b"\r\n"
    assert body == (
        b'{"claim_id":"00000000-0000-0000-0000-000000000007","net_fee":"20.00","currency":"USD",'
        b'"providers":[{"provider_npi":"1497775530","net_fee":"20.00"}]}'
    )


async def test_calls_share_connections() -> None:
    async with scripted() as (service, client):
        for _ in range(5):
            await client.pay(DUE)
        assert service.connections == 1


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (http(201, PAID), Paid("p-1")),
        (http(200, PAID), Paid("p-1")),
        (http(402, b""), Refused("HTTP 402")),
        (http(402, b'{"reason": "insufficient_funds"}'), Refused("insufficient_funds")),
        (http(422, b'{"reason": "no such member 3730189502, sorry"}'), Refused("HTTP 422")),
        (http(409, b'{"status": "cancelled"}'), Refused("cancelled")),
        (http(200, b'{"payment_id": "p-1", "status": "cancelled"}'), Refused("cancelled")),
        (http(429, b""), Unavailable("HTTP 429")),
        (http(503, b""), Unavailable("HTTP 503")),
        (http(503, b"", "Retry-After: 7"), Unavailable("HTTP 503", 7.0)),
        (http(429, b"", "Retry-After: 100000000000000000000"), Unavailable("HTTP 429", 60.0)),
        (http(429, b"", "Retry-After: -5"), Unavailable("HTTP 429")),
        (http(429, b"", "Retry-After: soon"), Unavailable("HTTP 429")),
        (http(401, b""), Unavailable("HTTP 401")),
        (http(404, b""), Unavailable("HTTP 404")),
        (http(500, b""), Unknown("HTTP 500")),
        (http(504, b""), Unknown("HTTP 504")),
        (http(302, b"", "Location: http://127.0.0.1:1/elsewhere"), Unknown("HTTP 302")),
        (http(204, b""), Unknown("HTTP 204")),
        (http(201, b""), Unknown("answer not understood")),
        (http(201, b"<html>"), Unknown("answer not understood")),
        (http(201, b"[]"), Unknown("answer not understood")),
        (http(201, b'{"payment_id": 7, "status": "paid"}'), Unknown("answer not understood")),
        (http(201, b'{"payment_id": "a b", "status": "paid"}'), Unknown("answer not understood")),
        (http(201, b'{"payment_id": "p-1", "status": "pending"}'), Unknown("answer not understood")),
        (http(201, b"\xff" * 20), Unknown("answer not understood")),
        (http(201, b"[" * 60_000), Unknown("answer not understood")),
        (http(201, PAID, "Content-Encoding: gzip"), Paid("p-1")),
        (http(201, b" " * (2 * ANSWER_BYTES) + PAID), Unknown("answer too long")),
        (b"HTTP/1.1 201 X\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n", Unknown("answer not understood")),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Unknown("answer not understood")),
        (b"HTTP/1.1 999999 X\r\n\r\n", Unknown("answer not understood")),
    ],
)
async def test_every_answer_is_one_of_four_results(answer: bytes, result: Result) -> None:
    assert await paid_with(answer) == result


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"", Unknown("connection lost")),
        (b"HTTP/1.1 201 X\r\nContent-Le", Unknown("connection lost")),
        (http(201, PAID)[:-5], Unknown("connection lost")),
        (http(402, b'{"reason": "insufficient_funds"}')[:-5], Refused("HTTP 402")),
    ],
)
async def test_a_connection_that_breaks_off_leaves_what_was_said(answer: bytes, result: Result) -> None:
    assert await paid_with(answer, then_close=True) == result


async def test_a_date_in_retry_after_counts_from_now() -> None:
    until = datetime.now(UTC) + timedelta(seconds=30)
    result = await paid_with(http(503, b"", f"Retry-After: {format_datetime(until, usegmt=True)}"))
    assert isinstance(result, Unavailable)
    assert 25 < result.retry_after <= 30


async def test_nobody_there_is_unavailable_and_nothing_was_sent() -> None:
    async with PaymentsClient(f"http://127.0.0.1:{free_port()}", PaymentsSettings()) as client:
        assert await client.pay(DUE) == Unavailable("unreachable")
        assert await client.cancel(DUE) == Unavailable("unreachable")
        assert not await client.is_alive()


async def test_silence_ends_with_the_read_timeout() -> None:
    async with scripted(payments_read_timeout_s=0.2) as (service, client):
        service.answer = b""
        assert await client.pay(DUE) == Unknown("no answer in time")


async def test_no_call_waits_for_anothers_connection() -> None:
    """The lanes bound the calls; a payment must not use up its attempt in a queue behind reversals."""
    async with scripted(payments_concurrency=1, payments_read_timeout_s=0.5) as (service, client):
        service.answer = b""
        await asyncio.gather(*(client.pay(DUE) for _ in range(40)))
        assert len(service.requests) == service.connections == 40


async def test_a_dripping_answer_ends_with_the_call() -> None:
    async with scripted() as (service, client):
        service.drip_s = 0.3
        started = asyncio.get_running_loop().time()
        assert await client.pay(DUE) == Unknown("no answer in time")
        assert asyncio.get_running_loop().time() - started < CALL_S + 0.4  # not rounded up to a whole second


@pytest.mark.parametrize(
    ("answer", "is_result"),
    [
        (http(200, b"{}"), lambda result: result == Cancelled()),
        (http(200, b"whatever"), lambda result: result == Cancelled()),
        (http(202, b"{}"), lambda result: result == Unknown("HTTP 202")),
        (http(404, b""), lambda result: result == Unavailable("HTTP 404")),
        (http(500, b""), lambda result: result == Unknown("HTTP 500")),
        (http(302, b"", "Location: /elsewhere"), lambda result: result == Unknown("HTTP 302")),
    ],
)
async def test_only_200_confirms_a_cancellation(answer: bytes, is_result: Callable[[object], bool]) -> None:
    async with scripted() as (service, client):
        service.answer = answer
        assert is_result(await client.cancel(DUE))
        assert service.requests[0].endswith(b'{"idempotency_key":"00000000-0000-0000-0000-000000000007:2"}')


@pytest.mark.parametrize(("status", "alive"), [(200, True), (404, True), (503, False), (302, False)])
async def test_a_service_is_alive_that_answers_for_a_key_nobody_used(status: int, alive: bool) -> None:
    async with scripted() as (service, client):
        service.answer = http(status, b"{}")
        assert await client.is_alive() is alive
