"""Where a marked subscriber id could be found: in bytes, in files, in tables. Used by tests of invariant I7 and of
erasure.

A mark is made of letters and digits alone, so that URL-encoding and JSON leave it as it is; capitals do not matter.
"""

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import asyncpg

_RELATIONS = """
SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'm', 'v') ORDER BY 1
"""


def _in_base64(mark: bytes) -> set[bytes]:
    """What base64 makes of the mark, wherever in a text it stands; its first and last characters depend on that."""
    return {b64encode(b"\0" * shift + mark)[4 * bool(shift) : -4] for shift in range(3)}


def holds(content: bytes, mark: str) -> bool:
    """Whether the mark is there: as it is, in base64, or in hex."""
    plain = mark.lower().encode()
    folded = content.lower()
    if plain in folded or plain.hex().encode() in folded or mark.encode().hex().encode() in folded:
        return True
    return any(form in content for form in _in_base64(mark.encode()))


def files_with(mark: str, folder: Path, besides: Iterable[Path] = ()) -> list[str]:
    """The files below a folder that hold the mark, but for those below `besides`."""
    left_out = tuple(besides)
    found = []
    for file in sorted(folder.rglob("*")):
        if any(file.is_relative_to(other) for other in left_out) or not file.is_file():
            continue
        if holds(file.read_bytes(), mark):
            found.append(str(file.relative_to(folder)))
    return found


def relations_with(database_url: str, mark: str) -> set[str]:
    """The tables and views, Postgres' own included, that have a row whose text holds the mark."""
    return asyncio.run(_relations_with(database_url, mark))


async def _relations_with(database_url: str, mark: str) -> set[str]:
    connection = await asyncpg.connect(database_url)
    found = set()
    try:
        for (name,) in await connection.fetch(_RELATIONS):
            query = f"SELECT EXISTS (SELECT 1 FROM {name} AS one WHERE strpos(lower(one::text), lower($1)) > 0)"
            try:
                if await connection.fetchval(query, mark):
                    found.add(name.removeprefix("public."))
            except (asyncpg.FeatureNotSupportedError, asyncpg.InternalServerError):
                assert "numa" in name, name  # a view of what this machine does not have
    finally:
        await connection.close()
    return found
