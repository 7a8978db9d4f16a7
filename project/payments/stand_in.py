"""The stand-in payments service: `python -m project.payments.stand_in`, for the demo, for tests, and as a reference.

It keeps the contract of docs/saga.md over real HTTP: a payment for each key at most, cancel-before-pay, its own
durable store. PUT /behaviour makes it misbehave in the ways that real services do. Started by the supervisor when
PAYMENTS_URL is not set. With PAYMENTS_TOKEN every call but /livez must bear that token; without one it listens for this
machine alone, whatever HOST says.
"""

import asyncio
import gc
import hmac
import random
import re
import sqlite3
import sys
from typing import Annotated, Any

import msgspec
import structlog
import uvloop
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from project import settings
from project.engines import launch
from project.errors import SettingsError
from project.payments import stand_in_store as store
from project.payments.stand_in_store import Kept, Store
from project.telemetry import logs
from project.telemetry.logs import where

GRACE_S = 6.0  # for the calls in hand after SIGTERM
BODY_BYTES = 16 * 1024 * 1024  # 100,000 providers take 6 MB

Rate = Annotated[float, Field(ge=0, le=1)]
_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")
_AMOUNT = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,2})?\Z")
_GARBAGE = (b"", b"<html>Bad Gateway</html>", b"[]", b'{"status": "ok"}', b'{"status": "paid"', b"\xff\xfe" * 100_000)
_log = structlog.get_logger("payments")


class Behaviour(BaseModel):
    """How it misbehaves with keys that it does not know; known ones are answered before any of this."""

    model_config = ConfigDict(extra="forbid", strict=True)

    refuse_rate: Rate = Field(0.0, description="402, nothing paid")
    fail_rate: Rate = Field(0.0, description="503, nothing paid")
    drop_after_commit_rate: Rate = Field(0.0, description="paid, and the connection is cut")
    garbage_rate: Rate = Field(0.0, description="paid, and the answer is garbage")
    delay_ms: int = Field(0, ge=0, le=600_000, description="before the payment is looked at")
    refuse_npis: list[str] = Field(default=[], description="402 for a claim with one of these providers")


class StandIn:
    """The service's handlers over its store."""

    def __init__(self, kept: Store) -> None:
        self._store = kept
        self._behaviour = Behaviour()
        self._dice = random.Random()  # noqa: S311  misbehaves, guards nothing

    def application(self, token: str | None = None) -> web.Application:
        """All routes, behind the token if there is one; every error is problem+json."""
        app = web.Application(middlewares=[_problems, _bearing(token)], client_max_size=BODY_BYTES)
        app.add_routes(
            [
                web.post("/payments", self.pay),
                web.get("/payments", self.find),
                web.post("/payments/cancel", self.cancel),
                web.get("/behaviour", self.behave),
                web.put("/behaviour", self.behave),
                web.get("/livez", _livez),
            ]
        )
        return app

    async def pay(self, request: web.Request) -> web.Response:
        """POST /payments. A key that is known by the time the delay is over is answered as what it is."""
        key = _checked_key(request.headers.get("Idempotency-Key"))
        behaviour = self._behaviour
        payment, refusal = await self._looked_at(request, behaviour)
        if behaviour.delay_ms and await self._store.do(lambda connection: store.find(connection, key)) is None:
            await asyncio.sleep(behaviour.delay_ms / 1000)
        kept = await self._store.do(
            lambda connection: store.find(connection, key) or (payment and store.pay(connection, key, *payment))
        )
        if kept is None:
            return refusal
        if kept.new and self._rolls(behaviour.drop_after_commit_rate) and request.transport:
            request.transport.abort()
        if kept.new and self._rolls(behaviour.garbage_rate):
            return web.Response(body=self._dice.choice(_GARBAGE), content_type="application/json")
        if kept.status == "cancelled":
            return _answer(409, {"status": "cancelled"})
        return _answer(201 if kept.new else 200, {"payment_id": kept.payment_id, "status": kept.status})

    async def _looked_at(
        self, request: web.Request, behaviour: Behaviour
    ) -> tuple[tuple[str, str] | None, web.Response]:
        """Claim and net fee if a new key would be paid now; else None and what it is answered instead."""
        try:
            claim_id, net_fee, npis = _checked_payment(await _json(request))
        except _Problem as problem:
            return None, _problem(problem.status, problem.detail)
        if self._rolls(behaviour.fail_rate):
            return None, _problem(503, "the payments service fails, as it was told to")
        refusal = _answer(402, {"status": "refused", "reason": "insufficient_funds"})
        if self._rolls(behaviour.refuse_rate) or not npis.isdisjoint(behaviour.refuse_npis):
            return None, refusal
        return (claim_id, net_fee), refusal

    def _rolls(self, rate: float) -> bool:
        return self._dice.random() < rate

    async def find(self, request: web.Request) -> web.Response:
        """GET /payments: all of them, or the one of `idempotency_key`."""
        if "idempotency_key" not in request.query:
            return _answer(200, {"items": [_shown(kept) for kept in await self._store.do(store.listed)]})
        key = _checked_key(request.query["idempotency_key"])
        known = await self._store.do(lambda connection: store.find(connection, key))
        if known is None:
            raise _Problem(404, "no payment has this key, yet")
        return _answer(200, _shown(known))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /payments/cancel."""
        body = await _json(request)
        key = _checked_key(body.get("idempotency_key"))
        await self._store.do(lambda connection: store.cancel(connection, key))
        return _answer(200, {"idempotency_key": key, "status": "cancelled"})

    async def behave(self, request: web.Request) -> web.Response:
        """GET and PUT /behaviour."""
        if request.method == "PUT":
            changes = await _json(request)
            try:
                self._behaviour = Behaviour.model_validate(self._behaviour.model_dump() | changes)
            except ValidationError as error:
                fields = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}))
                raise _Problem(422, f"not a behaviour: {fields}") from None
            _log.info("behaviour", **self._behaviour.model_dump())
        return _answer(200, self._behaviour.model_dump())


class _Problem(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@web.middleware
async def _problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except _Problem as problem:
        return _problem(problem.status, problem.detail)
    except web.HTTPException as error:
        return _problem(error.status, error.reason)
    except sqlite3.Error as error:
        _log.error("store_failed", error=where(error))
        return _problem(503, "the store cannot be written")
    return answer


def _bearing(token: str | None) -> Any:
    """Lets only those in who bear the token (RFC 6750)."""
    expected = None if token is None else f"Bearer {token}".encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        offered = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if expected is not None and request.path != "/livez" and not hmac.compare_digest(offered, expected):
            raise _Problem(401, "the token of PAYMENTS_TOKEN is required, as Authorization: Bearer")
        answer: web.StreamResponse = await handler(request)
        return answer

    return middleware


async def _livez(_: web.Request) -> web.Response:
    return _answer(200, {"status": "ok"})


def _answer(status: int, content: dict[str, Any], kind: str = "application/json") -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type=kind)


def _problem(status: int, title: str) -> web.Response:
    return _answer(status, {"title": title, "status": status}, "application/problem+json")


def _shown(kept: Kept) -> dict[str, Any]:
    return {
        "payment_id": kept.payment_id,
        "claim_id": kept.claim_id,
        "idempotency_key": kept.idempotency_key,
        "net_fee": kept.net_fee,
        "status": kept.status,
    }


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Problem(400, "the body must be JSON") from None
    if not isinstance(content, dict):
        raise _Problem(400, "the body must be a JSON object")
    return content


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not _KEY.match(key):
        raise _Problem(400, "an idempotency key of 1 to 255 printable ASCII characters")
    return key


def _checked_payment(body: dict[str, Any]) -> tuple[str, str, set[str]]:
    """The claim's id, its net fee (USD, any sign, as text) and its providers."""
    claim_id, net_fee, providers = body.get("claim_id"), body.get("net_fee"), body.get("providers", [])
    is_amount = isinstance(net_fee, str) and _AMOUNT.match(net_fee)
    if not is_amount or not isinstance(claim_id, str) or body.get("currency") != "USD":
        raise _Problem(400, "claim_id, net_fee (a decimal string) and currency USD are required")
    if not isinstance(providers, list) or not all(isinstance(one, dict) for one in providers):
        raise _Problem(400, "providers must be an array of objects")
    return claim_id, str(net_fee), {str(one.get("provider_npi")) for one in providers}


async def _application(chosen: settings.Settings) -> web.Application:
    kept = Store(chosen.storage.data_dir / "payments" / "payments.sqlite3")
    token = chosen.payments.payments_token
    app = StandIn(kept).application(token.get_secret_value() if token else None)

    async def close(_: web.Application) -> None:
        await kept.close()

    app.on_cleanup.append(close)
    return app


def serve(chosen: settings.Settings) -> None:
    """Serves until SIGTERM or SIGINT; calls in hand are finished."""
    logs.configure(chosen.logging, "payments")
    launch.step_back()
    gc.freeze()  # as in the worker
    web.run_app(
        _application(chosen),
        host=chosen.stand_in_host,
        port=chosen.payments_port,
        shutdown_timeout=GRACE_S,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    try:
        serve(settings.load())
    except SettingsError as error:
        sys.exit(f"claim_process: {error}")
    except OSError as error:
        sys.exit(f"claim_process: the stand-in cannot serve: {error.strerror}")
