"""The payments service as the saga sees it: one call, one of a few results, whatever the wire does.

Called by `saga`. The contract is in docs/saga.md. A call never raises for the service's sake and never lasts longer
than CALL_S; what it cannot make sense of is Unknown, because the money may have moved.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import aiohttp
import msgspec
from opentelemetry.trace import SpanKind

from project.settings import PaymentsSettings
from project.telemetry import saga_metrics as metrics
from project.telemetry import tracing

CALL_S = 5.0  # the whole of a call; a lease outlasts it
ANSWER_BYTES = 64 * 1024  # an answer to one payment has no business being longer
RETRY_AFTER_LONGEST_S = 60.0
# Shorter than the five seconds after which many servers close an idle connection under the next request.
KEEP_ALIVE_S = 4.0
PROBE_KEY = "probe"
_EPOCH = datetime.fromtimestamp(0, UTC)

_REASON = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z", re.ASCII)
_PAYMENT_ID = re.compile(r"[\x21-\x7e]{1,200}\Z")


@dataclass(frozen=True, slots=True)
class Due:
    """A leased payment, due since `due_at`. `providers` is the JSON array of the claim's net fees by NPI; `attempts`
    counts this lease.
    """

    claim_id: UUID
    redrive_no: int
    lease_no: int
    attempts: int
    net_fee: str
    providers: bytes
    line_count: int = 1
    traceparent: str | None = None
    due_at: datetime = _EPOCH

    @property
    def key(self) -> str:
        """The Idempotency-Key of every attempt at this payment, and the name by which it is cancelled."""
        return f"{self.claim_id}:{self.redrive_no}"


@dataclass(frozen=True, slots=True)
class Paid:
    """The money moved, once, whoever asked before."""

    payment_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Final: payments will not pay this key. `reason` is a code that is safe to store."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Payments said that it did nothing, or was not reached. `retry_after`: seconds that it asked for."""

    detail: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer that decides: the money may have moved. Only the same key may be used to ask again."""

    detail: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The key will never pay, not even by a request that is still on its way."""


Result = Paid | Refused | Unavailable | Unknown


class _Answer:
    """Status, headers and the first ANSWER_BYTES of an answer; `whole` tells whether that was all of it."""

    def __init__(self, status: int, headers: Any, body: bytes, whole: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole

    def member(self, name: str) -> object:
        """A member of the JSON object in the body; None if there is no such thing."""
        try:
            content = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return content.get(name) if isinstance(content, dict) else None


class PaymentsClient:
    """A pool of connections to the payments service. `async with` opens and closes it."""

    def __init__(self, url: str, settings: PaymentsSettings) -> None:
        self._url = url
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._settings.payments_token:
            headers["Authorization"] = f"Bearer {self._settings.payments_token.get_secret_value()}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),  # the lanes bound the calls
            timeout=aiohttp.ClientTimeout(
                total=CALL_S,
                sock_connect=self._settings.payments_connect_timeout_s,
                sock_read=self._settings.payments_read_timeout_s,
                ceil_threshold=2 * CALL_S,  # else aiohttp rounds up to whole seconds
            ),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._session:
            await self._session.close()

    async def pay(self, due: Due) -> Result:
        """Asks for the payment, under its key: any number of calls pay once."""
        body = b'{"claim_id":"%b","net_fee":"%b","currency":"USD","providers":%b}' % (
            str(due.claim_id).encode(),
            due.net_fee.encode(),
            due.providers,
        )
        with _call_of("pay", due) as call:
            answer = await self._call("POST", "/payments", body, {"Idempotency-Key": due.key}, call.traceparent)
            result = _result(answer) if isinstance(answer, _Answer) else answer
            kind = type(result).__name__.lower()
            call.tell(claim__result=kind)
        metrics.ATTEMPTS.labels(kind).inc()
        return result

    async def cancel(self, due: Due) -> Cancelled | Unavailable | Unknown:
        """Cancels what the key paid or may yet pay. Only Cancelled allows anybody to forget the claim."""
        body = msgspec.json.encode({"idempotency_key": due.key})
        with _call_of("cancel", due) as call:
            answer = await self._call("POST", "/payments/cancel", body, {}, call.traceparent)
            if not isinstance(answer, _Answer):
                return answer
            return Cancelled() if answer.status == 200 else _try_again(answer)

    async def is_alive(self) -> bool:
        """Whether the service answers at all: asks for a payment that nobody made."""
        answer = await self._call("GET", f"/payments?idempotency_key={PROBE_KEY}", None, {})
        return isinstance(answer, _Answer) and answer.status in (200, 404)

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], traceparent: str | None = None
    ) -> _Answer | Unavailable | Unknown:
        assert self._session
        if traceparent is not None:
            headers["traceparent"] = traceparent
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                return await _read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Unavailable("unreachable")
        except TimeoutError:
            return Unknown("no answer in time")
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return Unknown("connection lost")
        except (aiohttp.ClientError, ValueError):
            return Unknown("answer not understood")


@contextmanager
def _call_of(kind: str, due: Due) -> Iterator[tracing.Step]:
    """Times a call, and makes it a step of the claim's trace."""
    started = time.perf_counter()
    about: dict[str, str | int] = {"claim__id": str(due.claim_id), "claim__attempt": due.attempts}
    with tracing.step(f"payments {kind}", SpanKind.CLIENT, due.traceparent, **about) as step:
        yield step
    metrics.CALL_SECONDS.labels(kind).observe(time.perf_counter() - started)


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    """What there is of the answer. A body that breaks off takes nothing from the status."""
    body = bytearray()
    whole = True
    try:
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > ANSWER_BYTES:
                whole = False
                response.close()  # the rest is not wanted, nor is the connection that would bring it
                break
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        whole = False
    return _Answer(response.status, response.headers, bytes(body), whole)


def _result(answer: _Answer) -> Result:
    """The contract's table, and after it what no contract foresees."""
    if answer.status in (200, 201):
        return _paid(answer)
    if answer.status in (402, 409, 422):
        return Refused("cancelled" if answer.status == 409 else _reason(answer))
    return _try_again(answer)


def _paid(answer: _Answer) -> Result:
    if not answer.whole:
        return Unknown("answer too long" if len(answer.body) > ANSWER_BYTES else "connection lost")
    payment_id, status = answer.member("payment_id"), answer.member("status")
    if status == "paid" and isinstance(payment_id, str) and _PAYMENT_ID.match(payment_id):
        return Paid(payment_id)
    return Refused("cancelled") if status == "cancelled" else Unknown("answer not understood")


def _reason(answer: _Answer) -> str:
    """The service's code for a refusal, if it is one that can be stored and shown; else the status."""
    reason = answer.member("reason")
    return reason if isinstance(reason, str) and _REASON.match(reason) else f"HTTP {answer.status}"


def _try_again(answer: _Answer) -> Unavailable | Unknown:
    """Statuses that decide nothing. A 5xx may come after the money moved; a 4xx says that it was not asked to."""
    if 400 <= answer.status < 500 or answer.status == 503:
        return Unavailable(f"HTTP {answer.status}", _retry_after(answer.headers.get("Retry-After")))
    return Unknown(f"HTTP {answer.status}")


def _retry_after(header: str | None) -> float:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date), at most RETRY_AFTER_LONGEST_S; 0 if it says nothing."""
    if header is None:
        return 0.0
    if header.isascii() and header.isdigit():
        seconds = float(header[:10])
    else:
        try:
            until = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_LONGEST_S)
