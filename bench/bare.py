"""The bare loop that the saga is compared with: payments posted by aiohttp as fast as it goes. Used by `saga`."""

import asyncio
import time
from uuid import uuid4

import aiohttp
import uvloop

from project.payments.client import KEEP_ALIVE_S


def paid_a_second(url: str, seconds: float, at_once: int) -> float:
    """So many calls in flight, each with a key of its own; every answer is read and must be 201."""
    return uvloop.run(_paid_a_second(url, seconds, at_once))


async def _paid_a_second(url: str, seconds: float, at_once: int) -> float:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        started = time.perf_counter()
        counts = await asyncio.gather(*(_pay_on(session, f"{url}/payments", started + seconds) for _ in range(at_once)))
        return sum(counts) / (time.perf_counter() - started)


async def _pay_on(session: aiohttp.ClientSession, url: str, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        claim = str(uuid4())
        body = (
            f'{{"claim_id":"{claim}","net_fee":"116.85","currency":"USD",'
            '"providers":[{"provider_npi":"1497775530","net_fee":"35.60"},{"provider_npi":"1497775540","net_fee":"81.25"}]}'
        )
        headers = {"Idempotency-Key": f"{claim}:0", "Content-Type": "application/json"}
        async with session.post(url, data=body, headers=headers) as answer:
            await answer.read()
            if answer.status != 201:
                raise RuntimeError(f"payments answered {answer.status}")
        count += 1
    return count
