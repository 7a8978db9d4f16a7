"""The first API keys, which `migrate` makes from a secret file: once, all or none, never shown."""

import asyncio
import json
import secrets
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from project.errors import SettingsError
from project.security.first_keys import parse
from project.tests.keys import told
from project.tests.service import environment

EVERYTHING = "claims:write,claims:read,providers:read,operate,metrics:read"


def new_key() -> str:
    return f"cpk_{secrets.token_hex(16)}_{secrets.token_urlsafe(32)}"


class Migrating:
    """`python -m project migrate` with a file of keys."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self._folder = folder
        self._file = folder / "api_keys"

    def __call__(self, *lines: str) -> subprocess.CompletedProcess[str]:
        self._file.write_text("".join(f"{line}\n" for line in lines))
        return subprocess.run(
            [sys.executable, "-m", "project", "migrate"],
            env=environment(self._folder, DATABASE_URL=self.database_url, API_KEYS_FILE=str(self._file)),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def names(self, *options: str) -> list[str]:
        return [key["name"] for key in told(self.database_url, "list", *options)["items"]]


@pytest.fixture
def migrate(empty_database_url: str, tmp_path: Path) -> Migrating:
    return Migrating(empty_database_url, tmp_path)


def test_migrate_makes_the_keys_of_the_file_once(migrate: Migrating) -> None:
    lines = (
        "# who begins",
        "",
        f"admin {EVERYTHING} {new_key()}  # everything",
        f"prometheus metrics:read {new_key()}",
    )
    first = migrate(*lines)
    assert first.returncode == 0, first.stderr
    assert "2 of 2 API keys are new" in first.stdout
    assert migrate.names() == ["admin", "prometheus"]
    again = migrate(*lines, f"clinic-a claims:write {new_key()}")
    assert "1 of 3 API keys are new" in again.stdout
    assert migrate.names() == ["admin", "clinic-a", "prometheus"]
    assert "cpk_" not in first.stdout + first.stderr + again.stdout + again.stderr


def test_a_key_that_was_revoked_stays_revoked(migrate: Migrating) -> None:
    line = f"admin operate {new_key()}"
    migrate(line)
    told(migrate.database_url, "revoke", "admin")
    assert migrate(line).returncode == 0
    assert (migrate.names(), migrate.names("--all")) == ([], ["admin"])


def test_an_id_with_another_secret_is_refused_and_nothing_else_is_made(migrate: Migrating) -> None:
    key = new_key()
    assert migrate(f"admin operate {key}").returncode == 0
    other = f"{key[:37]}{secrets.token_urlsafe(32)}"
    refused = migrate(f"clinic-a claims:write {new_key()}", f"admin operate {other}")
    assert refused.returncode == 1
    assert refused.stderr == (
        "claim_process: API_KEYS line 2 has the id of a key that is there already, but another secret\n"
    )
    assert migrate.names() == ["admin"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("admin operate", "must be NAME SCOPE"),
        ("admin operate {key} more", "must be NAME SCOPE"),
        ("admin operate cpk_1234", "has no key of the form"),
        ("{key} operate admin", "has no key of the form"),
        ("{key} operate {key}", "has a wrong name or scope"),
        ("admin {key} {key}", "has a wrong name or scope"),
        ("worker operate {key}", "has a wrong name or scope"),
        ("admin operate,everything {key}", "has a wrong name or scope"),
        ("other claims:read {first}", "has the same id as line 1"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number_and_shows_no_key(wrong: str, why: str) -> None:
    first, key = new_key(), new_key()
    with pytest.raises(SettingsError) as refused:
        parse(f"admin operate {first}\n# a comment\n{wrong.format(key=key, first=first)}\n")
    said = str(refused.value)
    assert said.startswith(f"API_KEYS line 3 {why}")
    assert "\n" not in said
    assert first not in said
    assert key not in said


def test_a_wrong_line_ends_migrate_before_anything_is_changed(migrate: Migrating) -> None:
    refused = migrate(f"admin operate {new_key()}", "clinic-a claims:write")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "claim_process: API_KEYS line 2 must be NAME SCOPE[,SCOPE...] KEY\n"
    assert asyncio.run(tables(migrate.database_url)) == 0


async def tables(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    finally:
        await connection.close()


def test_what_a_line_holds_of_a_key_is_its_digest_alone() -> None:
    key = new_key()
    (kept,) = parse(f"admin operate {key}\n")
    assert key[37:] not in repr(kept)
    assert json.dumps([scope.value for scope in kept.scopes]) == '["operate"]'
