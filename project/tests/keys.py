"""API keys for tests: made directly, or by the command line as an operator does."""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

from project.security import store
from project.security.scopes import Scope
from project.tests.service import environment


def keys(database_url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m project keys WORDS` against this database."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = environment(Path(folder), DATABASE_URL=database_url)
        argv = [sys.executable, "-m", "project", "keys", *words]
        return subprocess.run(argv, env=surroundings, cwd=folder, capture_output=True, text=True, check=False)


def told(database_url: str, *words: str) -> Any:
    """What it prints as JSON; it must succeed."""
    done = keys(database_url, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_key(database_url: str, name: str, *scopes: str) -> dict[str, str]:
    """A new key's `id`, `name` and `key`, without the command line's start."""

    async def make() -> store.NewKey:
        connection = await asyncpg.connect(database_url)
        try:
            return await store.create(connection, name, [Scope(scope) for scope in scopes], None)
        finally:
            await connection.close()

    made = asyncio.run(make())
    return {"id": str(made.id), "name": made.name, "key": made.key}


def bearing(key: str) -> dict[str, str]:
    """The header of a request with this key."""
    return {"Authorization": f"Bearer {key}"}
