"""Hundreds of worlds in which everything goes wrong, each from one integer (see `simulation`). `make soak`: 10,000."""

import os

from project.tests.payments.simulation import simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))
FIRST = int(os.environ.get("SIMULATION_FIRST_SEED", "1"))


async def test_no_seed_loses_a_claim_or_pays_one_twice(database_url: str) -> None:
    claims = await simulate(database_url, range(FIRST, FIRST + SEEDS))
    assert claims >= SEEDS
