"""Files of claims for tests, imported as the command does it, and what came of it."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from project import db, doctor
from project.imports.files import Format
from project.imports.run import Summary, Wanted, import_file
from project.settings import IntakeSettings
from project.tests.service import environment, line

HEADER = (
    "Claim #,service date,submitted procedure,quadrant,Plan/Group #,Subscriber#,Provider NPI,"
    "provider fees,Allowed fees,member coinsurance,member copay\n"
)
_clients = count(1)


def row(number: str, fees: str = "110.00", npi: str = "1497775530") -> str:
    """A CSV row of a valid line, with a net fee of 10.00."""
    return f"{number},3/28/18 0:00,D0180,,GRP-1000,3730189502,{npi},${fees} ,$100.00 ,$0.00 ,$0.00 \n"


def claim(number: str | None = None, *lines: dict[str, Any]) -> bytes:
    """An NDJSON row of a claim, by default of one line with a net fee of 10.00."""
    return json.dumps({"claim_number": number, "lines": lines or [line(provider_fees=110)]}).encode() + b"\n"


def many(path: Path, numbers: Iterable[int], lines: int = 2) -> Path:
    """An NDJSON file of numbered claims; every seventh is refused, for its NPI."""
    with path.open("wb") as file:
        for number in numbers:
            npi = "1497775530" if number % 7 else "no NPI"
            file.write(claim(f"N-{number}", *[line(provider_fees=110, provider_npi=npi)] * lines))
    return path


def packed(path: Path) -> Path:
    """The same file, gzip."""
    made = path.with_name(path.name + ".gz")
    made.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return made


class Importer:
    """Imports into one database, each time for a client of its own, if none is named."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url

    def run(
        self,
        path: Path,
        client: str | None = None,
        *,
        again: bool = False,
        format: Format | None = None,  # noqa: A002  as the command calls it
        refused: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
        **limits: Any,
    ) -> Summary:
        """Imports the file in this process."""
        wanted = Wanted(client or f"client{next(_clients)}", "cli:tester", format, refused, again)
        return asyncio.run(
            import_file(
                lambda: db.connect_patiently(self.database_url), path, wanted, IntakeSettings(**limits), stop=stop
            )
        )

    def command(self, *words: object) -> subprocess.Popen[str]:
        """`import WORDS`, started, in a session of its own."""
        argv = [sys.executable, "-m", "project.imports.commands", *map(str, words)]
        return subprocess.Popen(
            argv,
            env=environment(Path(os.devnull), DATABASE_URL=self.database_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Rows of the database."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.database_url)
            try:
                found: list[Any] = await connection.fetch(query, *arguments)
                return found
            finally:
                await connection.close()

        return asyncio.run(ask())

    def numbers(self, client: str) -> list[str | None]:
        """The numbers of all claims of a client, in the order of their ids."""
        return [one[0] for one in self.fetch("SELECT claim_number FROM claim WHERE client = $1 ORDER BY id", client)]

    def healthy(self) -> bool:
        """Whether the doctor has nothing to say."""

        async def ask() -> bool:
            connection = await asyncpg.connect(self.database_url)
            try:
                return (await doctor.examine(connection, None, 900)).healthy
            finally:
                await connection.close()

        return asyncio.run(ask())


def refused_of(path: Path) -> list[dict[str, Any]]:
    """What the file of refused claims says."""
    return [json.loads(told) for told in path.read_text().splitlines()]


def faults_of(told: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Line, field and rule of each fault."""
    return [(fault["line"], fault["field"], fault["rule"]) for fault in told["errors"]]


def session_of(pid: int) -> list[int]:
    """The processes that still run of the session which this one leads, or has led."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            told = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if told[0] != "Z" and int(told[3]) == pid:
                found.append(int(entry.name))
    return found
