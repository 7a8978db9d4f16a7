"""The command itself: what it says, how it ends, and what is left of it after kill -9."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from project.tests.imports.importing import HEADER, Importer, many, refused_of, row, session_of
from project.tests.service import environment, wait_until

# Ends the statement, and the connection, of whoever is in the middle of storing claims.
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""
SEED = int(os.environ.get("IMPORT_SEED", random.randrange(10_000)))


@pytest.fixture(scope="module")
def importer(shared_database_url: str) -> Iterator[Importer]:
    """The database of this module; whatever its tests have imported, its books balance."""
    made = Importer(shared_database_url)
    yield made
    assert made.healthy()


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    """Its exit code, the rows of its --json, and its standard error."""
    told, errors = process.communicate(timeout=60)
    return process.returncode, [json.loads(one) for one in told.splitlines() if one.startswith("{")], errors


def progress(importer: Importer, client: str) -> int:
    """How many claims of its last run are done."""
    found = importer.fetch("SELECT next_row - 1 FROM import_run WHERE client = $1 ORDER BY id DESC LIMIT 1", client)
    return int(found[0][0]) if found else 0


def _past(importer: Importer, claims: int) -> bool:
    return progress(importer, "killed") > claims


def _is_gone(session: int) -> bool:
    return not session_of(session)


def test_killed_at_any_moment_it_goes_on_without_doubling_or_losing_a_claim(importer: Importer, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    file = many(tmp_path / "file.ndjson", range(1, 8001), lines=1)
    for killed in range(3):
        process = importer.command(file, "--client", "killed")
        wait_until(partial(_past, importer, 1000 * killed), f"it works, seed {SEED}")
        time.sleep(chance.uniform(0, 0.05))  # any moment of a chunk
        process.kill()
        process.communicate()
        wait_until(partial(_is_gone, process.pid), "nothing is left of it")
    code, _, errors = ended(importer.command(file, "--client", "killed"))
    assert code == 3 or "was imported already" in errors, f"seed {SEED}"  # a kill may come after all was done
    assert importer.numbers("killed") == [f"N-{number}" for number in range(1, 8001) if number % 7]
    refused = refused_of(tmp_path / "file.ndjson.refused.ndjson")
    assert [one["first_line"] for one in refused] == list(range(7, 8001, 7))
    [run] = importer.fetch("SELECT state, accepted, refused, lines, net_fee FROM import_run WHERE client = 'killed'")
    assert tuple(run) == ("finished", 6858, 1142, 6858, 68580)
    assert importer.healthy()


def test_asked_to_end_it_finishes_its_transaction_and_says_how_to_go_on(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", range(1, 30_001), lines=1)
    process = importer.command(file, "--client", "asked", "--json")
    wait_until(lambda: progress(importer, "asked"), "it works")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does it
    code, [told], errors = ended(process)
    assert code == 130
    assert "the same command goes on" in errors
    assert not told["finished"]
    assert told["accepted"] + told["refused"] == progress(importer, "asked") < 30_000


def test_connections_that_are_cut_cost_time_and_nothing_else(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", range(1, 12_001), lines=1)
    process = importer.command(file, "--client", "cut", "--json")
    wait_until(lambda: progress(importer, "cut"), "it works")
    cuts = 0
    while process.poll() is None and cuts < 4:
        cuts += len(importer.fetch(CUT))
    code, [told], errors = ended(process)
    assert (code, errors, cuts > 0) == (3, "", True)
    assert importer.numbers("cut") == [f"N-{number}" for number in range(1, 12_001) if number % 7]
    assert told["refused"] == len(refused_of(Path(told["refused_file"]))) == 12_000 // 7


def test_files_one_after_the_other_and_what_each_came_to(importer: Importer, tmp_path: Path) -> None:
    first, second = many(tmp_path / "first.ndjson", [1, 2]), tmp_path / "second"
    second.write_text(HEADER + row("A") + row("A"))
    argv = [sys.executable, "-m", "project", "import", str(first), f"{tmp_path}/missing.csv", str(second)]
    urls = environment(tmp_path, DATABASE_URL=importer.database_url)
    done = subprocess.run(argv, env=urls, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"claim_process: {tmp_path}/missing.csv: cannot be read (No such file or directory)\n"
    assert f"{first}: imported 2 claims of 4 lines, net fee 40.00" in done.stdout
    assert f"{second}: imported 1 claims of 2 lines, net fee 20.00" in done.stdout
    assert importer.numbers("local") == ["N-1", "N-2", "A"]


def test_nothing_that_it_prints_holds_a_value(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text(HEADER + row("MARK1", npi="MARK2") + "MARK3,MARK4\n" + row("").replace("3730189502", "MARK5"))
    process = importer.command(file, "--client", "quiet")
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"1 claims were refused: {file}.refused.ndjson" in told
    assert "MARK" not in told + errors
    assert "MARK5" in (tmp_path / "file.csv.refused.ndjson").read_text()


def peak(importer: Importer, file: Path) -> int:
    """The memory in bytes of the larger of its processes, the import of this file accepting everything."""
    process = importer.command(file, "--client", file.stem, "--json")
    most = 0
    while process.poll() is None:
        for each in session_of(process.pid):
            with suppress(OSError):  # or else it has ended meanwhile
                told = Path(f"/proc/{each}/status").read_text()
                most = max(most, *(1024 * int(kilobytes) for kilobytes in re.findall(r"VmHWM:\s+(\d+) kB", told)), 0)
        time.sleep(0.05)
    code, _, errors = ended(process)
    assert (code, errors) == (0, "")
    return most


def test_five_times_the_lines_take_no_more_memory(importer: Importer, tmp_path: Path) -> None:
    peaks = []
    for lines in (20_000, 100_000):
        file = tmp_path / f"of{lines}.csv"
        file.write_text(HEADER + "".join(row(f"N{number}") * 500 for number in range(lines // 500)))
        peaks.append(peak(importer, file))
    assert peaks[1] < peaks[0] + 20_000_000
    assert max(peaks) < 150_000_000
