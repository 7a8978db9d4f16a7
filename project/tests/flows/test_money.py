"""Exact money: the answers, the database and an oracle in integer cents agree on 100,000 lines, to the cent."""

import asyncio
import json
import random
from collections import defaultdict
from decimal import Decimal
from typing import Any

import asyncpg

from project.tests.service import Service, line

LINES = 100_000
LARGEST = 10**12 - 1  # cents: ten digits before the point
COLUMNS = ("provider_fees", "allowed_fees", "member_co_ins", "member_co_pay")


def cents(dice: random.Random) -> int:
    """Amounts of all sizes: zero, one cent, the largest, and whatever lies between."""
    kind = dice.randrange(10)
    if kind < 2:
        return dice.choice([0, 1, 99, 100, LARGEST, LARGEST - 1])
    return dice.randrange(10 ** dice.randrange(1, 13))


def spelled(amount: int, dice: random.Random) -> Any:
    """One of the spellings of an amount on the wire."""
    whole, part = divmod(amount, 100)
    return dice.choice(
        [f"{whole}.{part:02}", f"${whole:,}.{part:02} ", f" $ {whole}.{part:02}\t", Bare(f"{whole}.{part:02}")]
        + ([whole, str(whole), f"{whole:,}", Bare(f"{whole}.0")] if part == 0 else [])
        + ([Bare(f"{whole}.{part // 10}"), f"{whole}.{part // 10}"] if part % 10 == 0 else [])
    )


class Bare(str):
    """A number that stands in the JSON text without quotes, just as it is spelled."""


def body(lines: list[dict[str, Any]]) -> str:
    """The JSON text. Bare numbers are written as spelled: no float is ever made of them."""
    members = (
        [(name, value if isinstance(value, Bare) else json.dumps(value)) for name, value in one.items()]
        for one in lines
    )
    return "[" + ",".join("{" + ",".join(f'"{name}":{value}' for name, value in one) + "}" for one in members) + "]"


def rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    async def ask() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(database_url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_database_answer_and_oracle_agree_on_100_000_lines(service: Service) -> None:
    dice = random.Random(20261124)
    of_provider: defaultdict[str, int] = defaultdict(int)
    answered = 0
    while answered < LINES:
        amounts = [[cents(dice) for _ in COLUMNS] for _ in range(dice.choice([1, 2, 50, 2000, 5000]))]
        npis = [f"{1000000000 + dice.randrange(500)}" for _ in amounts]
        fees = [provider + co_ins + co_pay - allowed for provider, allowed, co_ins, co_pay in amounts]
        claim = [
            line(provider_npi=npi) | {name: spelled(one, dice) for name, one in zip(COLUMNS, four, strict=True)}
            for npi, four in zip(npis, amounts, strict=True)
        ]
        answer = service.http.post("/claims", content=body(claim), headers={"Content-Type": "application/json"})
        assert answer.status_code == 201, answer.text[:500]
        told = json.loads(answer.text, parse_float=Decimal)
        assert [one["net_fee"] for one in told["lines"]] == [Decimal(fee) / 100 for fee in fees]
        assert [[one[name] for name in COLUMNS] for one in told["lines"]] == [
            [Decimal(c) / 100 for c in four] for four in amounts
        ]
        assert told["net_fee"] == Decimal(sum(fees)) / 100
        for npi, fee in zip(npis, fees, strict=True):
            of_provider[npi] += fee
        answered += len(claim)
    oracle = sorted((npi, Decimal(total) / 100) for npi, total in of_provider.items())
    by_line = "SELECT provider_npi, sum(net_fee) FROM claim_line GROUP BY 1 ORDER BY 1"
    by_formula = (
        "SELECT provider_npi, sum(provider_fees + member_co_ins + member_co_pay - allowed_fees) "
        "FROM claim_line GROUP BY 1 ORDER BY 1"
    )
    kept = "SELECT provider_npi, net_fee FROM provider_net_fee ORDER BY 1"
    assert rows(service.database_url, by_line) == oracle
    assert rows(service.database_url, by_formula) == oracle
    assert rows(service.database_url, kept) == oracle
    assert rows(service.database_url, "SELECT sum(net_fee) FROM claim") == [(sum(fee for _, fee in oracle),)]
    assert rows(service.database_url, "SELECT sum(amount) FROM claim_event") == [(sum(fee for _, fee in oracle),)]
