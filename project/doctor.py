"""`python -m project doctor`: do the books balance, does payments agree, is anything stuck? Called by `commands`.

The payments service is asked first, then the database in one snapshot; claims that changed within QUIET_S seconds, or
that are on their way, are left out of the comparison, because their two sides were not seen at one moment.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import aiohttp
import msgspec

from project import audit

QUIET_S = 60
LISTING_TIMEOUT_S = 60.0
SHOWN = 20  # examples of each kind of trouble

# $1 quiet (interval)
_SETTLED = """
SELECT payment.claim_id::text || ':' || payment.redrive_no AS key, claim.net_fee
FROM payment JOIN claim ON claim.id = payment.claim_id WHERE payment.state = 'paid'
"""
_MOVING = """
SELECT claim_id::text FROM payment WHERE state <> 'paid'
UNION SELECT claim_id::text FROM claim_event WHERE at > now() - $1::interval
"""


@dataclass(frozen=True)
class Compared:
    """Our paid claims beside the payments service's own list. Amounts are USD."""

    claims: int = 0
    difference: Decimal = Decimal("0.00")
    disagreements: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What the doctor found. `payments` is None when that service does not list its payments, or is away."""

    books: audit.Books
    torn: int
    stuck: list[audit.Stuck]
    payments: Compared | None

    @property
    def healthy(self) -> bool:
        """Whether nobody need be woken."""
        agreed = self.payments is None or not self.payments.disagreements
        return self.books.difference == 0 and not self.torn and not self.stuck and agreed


async def examine(connection: Any, listed: list[dict[str, Any]] | None, stuck_after_s: int) -> Report:
    """Looks at everything; `listed` was asked before. Raises what the database raises when it is away."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Report(
            books=await audit.books(connection),
            torn=await audit.torn(connection),
            stuck=list(await audit.stuck(connection, stuck_after_s)),
            payments=None if listed is None else await _compare(connection, listed),
        )


async def listed(payments_url: str, token: str | None) -> list[dict[str, Any]] | None:
    """Every payment that the service knows; None if it does not tell."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=LISTING_TIMEOUT_S, sock_connect=2.0)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{payments_url}/payments", allow_redirects=False) as answer,
        ):
            content = msgspec.json.decode(await answer.read()) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    items = content.get("items") if isinstance(content, dict) else None
    return items if isinstance(items, list) and all(isinstance(item, dict) for item in items) else None


async def _compare(connection: Any, listed: list[dict[str, Any]]) -> Compared:
    """Every settled claim has just one payment that is paid, of its amount; and no other payment is paid."""
    paid_there: Counter[str] = Counter()
    amounts: dict[str, Decimal] = {}
    for item in listed:
        if item.get("status") == "paid":
            key = str(item.get("idempotency_key"))
            paid_there[key] += 1
            amounts[key] = _amount(item.get("net_fee"))
    moving = {row[0] for row in await connection.fetch(_MOVING, timedelta(seconds=QUIET_S))}
    claims, difference = 0, Decimal("0.00")
    disagreements: list[str] = []
    for key, net_fee in await connection.fetch(_SETTLED):
        times, amount = paid_there.pop(key, 0), amounts.get(key, Decimal(0))
        if key.partition(":")[0] in moving:
            continue
        claims += 1
        if times != 1 or amount != net_fee:
            difference += amount * times - net_fee
            disagreements.append(f"{key}: {net_fee} is due, {times} payments of {amount} were made")
    for key, times in paid_there.items():
        if key.partition(":")[0] not in moving:
            difference += amounts[key] * times
            disagreements.append(f"{key}: nothing is due, {times} payments of {amounts[key]} were made")
    return Compared(claims, difference, disagreements)


def _amount(text: object) -> Decimal:
    try:
        return Decimal(str(text))
    except InvalidOperation:
        return Decimal("NaN")
