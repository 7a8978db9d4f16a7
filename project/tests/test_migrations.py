"""Migrations: up, down, up again; on an empty database and on one with rows; and that they match the models."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command

from project import schema
from project.revision import is_migrated, known_revisions
from project.tests.rows import store_claims
from project.tests.service import environment


def fetch(database_url: str, query: str) -> list[Any]:
    """The first column of a query."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(database_url)
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def test_migrations_make_just_what_the_models_declare(database_url: str) -> None:
    command.check(schema.config(database_url))


def test_down_leaves_nothing_and_up_again_makes_the_same(database_url: str) -> None:
    before = fetch(database_url, TABLES)
    schema.downgrade(database_url, "base")
    assert fetch(database_url, TABLES) == ["alembic_version"]
    schema.upgrade(database_url)
    assert fetch(database_url, TABLES) == before
    command.check(schema.config(database_url))


def test_down_and_up_work_on_tables_with_rows(database_url: str) -> None:
    asyncio.run(store_claims(database_url, 3))
    assert fetch(database_url, "SELECT count(*) FROM claim_line") == [6]
    schema.downgrade(database_url, "base")
    schema.upgrade(database_url)
    assert fetch(database_url, "SELECT count(*) FROM claim_line") == [0]
    asyncio.run(store_claims(database_url, 2))
    assert fetch(database_url, "SELECT count(*) FROM claim") == [2]


def test_many_processes_may_migrate_at_once(empty_database_url: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "project", "migrate"]
    surroundings = environment(tmp_path, DATABASE_URL=empty_database_url)
    running = [subprocess.Popen(argv, env=surroundings, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert fetch(empty_database_url, "SELECT version_num FROM alembic_version") == [known_revisions()[-1]]


@pytest.mark.parametrize(
    ("revision", "ready"),
    [("0001", False), *zip(known_revisions()[-2:], (False, True), strict=True), ("9999", True), (None, False)],
)
async def test_a_database_is_ready_at_our_revision_or_beyond(
    database_url: str, revision: str | None, ready: bool
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM alembic_version")
    if revision:
        await connection.execute("INSERT INTO alembic_version VALUES ($1)", revision)
    assert await is_migrated(connection.fetchval) is ready
    await connection.close()


def test_what_the_planner_had_learnt_of_subscribers_is_forgotten(database_url: str) -> None:
    known = "SELECT attname FROM pg_stats WHERE attname IN ('subscriber_id', 'claim', 'group_id')"
    asyncio.run(store_claims(database_url, 3))
    schema.downgrade(database_url, "0002")
    fetch(database_url, "ANALYZE")
    assert sorted(fetch(database_url, known)) == ["group_id", "subscriber_id"]
    schema.upgrade(database_url)
    fetch(database_url, "ANALYZE")
    assert fetch(database_url, known) == ["group_id"]
