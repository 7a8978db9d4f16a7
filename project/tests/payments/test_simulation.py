"""Hundreds of worlds in which everything goes wrong, each from one integer (see `simulation`). `make soak`: 10,000."""

import os
import subprocess
import sys
from pathlib import Path

from project.tests.payments.simulation import simulate
from project.tests.service import environment

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))
FIRST = int(os.environ.get("SIMULATION_FIRST_SEED", "1"))


async def test_no_seed_loses_a_claim_or_pays_one_twice(database_url: str) -> None:
    claims = await simulate(database_url, range(FIRST, FIRST + SEEDS))
    assert claims >= SEEDS


def test_a_seed_is_replayed_by_its_number(database_url: str, tmp_path: Path) -> None:
    """Two replays of one seed make the same choices among the same possibilities: the same story."""
    argv = [sys.executable, "-m", "project.tests.payments.simulation", "--tell", "17"]
    surroundings = environment(tmp_path, DATABASE_URL=database_url)
    first, second = (
        subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    told = [[line for line in output.splitlines() if " choice " in line] for output in (first, second)]
    assert len(told[0]) > 100
    assert told[0] == told[1]
