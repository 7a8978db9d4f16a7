"""API keys in the database: made, listed, revoked, read. Called by `commands` and by `ring`, over a bare connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from project.ids import new_id
from project.security import keys
from project.security.scopes import Caller, Scope

# $1 id, $2 name, $3 hash, $4 scopes, $5 expires_at
CREATE = "INSERT INTO api_key (id, name, hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5)"
KEEP = f"{CREATE} ON CONFLICT (id) DO NOTHING RETURNING id"
DIGEST = "SELECT hash FROM api_key WHERE id = $1"
EVER_MADE = "SELECT EXISTS (SELECT FROM api_key)"
_IS_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
LIVE = f"SELECT id, name, hash, scopes FROM api_key WHERE {_IS_LIVE}"  # noqa: S608  only a text of this file
# $1 whether also those that let nobody in any more
LISTED = f"""
SELECT id, name, scopes, created_at, expires_at, revoked_at, last_used_at, {_IS_LIVE} AS live
FROM api_key WHERE $1 OR ({_IS_LIVE}) ORDER BY name, id
"""  # noqa: S608
REVOKE_ID = "UPDATE api_key SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id"
REVOKE_NAME = "UPDATE api_key SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL RETURNING id"
# $1 id[]: to the minute, so that a busy key does not rewrite its row each second
TOUCH = """
UPDATE api_key SET last_used_at = now()
WHERE id = ANY($1::uuid[]) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
"""


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A key that lets its holder in: its digest, and who that is."""

    hash: bytes
    caller: Caller


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `key` is shown to whoever made it, once."""

    id: UUID
    name: str
    key: str
    scopes: Sequence[Scope]


async def create(connection: Any, name: str, scopes: Sequence[Scope], expires_at: datetime | None) -> NewKey:
    """Makes a key; the first one ever closes the keyless mode in every process within five seconds, for good."""
    key_id = new_id()
    made = NewKey(key_id, name, keys.new_key(key_id), scopes)
    await connection.execute(CREATE, key_id, name, keys.digest(made.key.encode()), list(scopes), expires_at)
    return made


async def keep(connection: Any, key_id: UUID, name: str, digest: bytes, scopes: Sequence[Scope]) -> bool:
    """Stores a key that was made elsewhere; whether it was not there yet. One that is there stays as it is."""
    return await connection.fetchval(KEEP, key_id, name, digest, list(scopes), None) is not None


async def digest_of(connection: Any, key_id: UUID) -> bytes:
    """The digest of a key that is there, in force or not."""
    return bytes(await connection.fetchval(DIGEST, key_id))


async def ever_made(connection: Any) -> bool:
    """Whether there ever was a key; revoking the last one does not change that."""
    return bool(await connection.fetchval(EVER_MADE))


async def live(connection: Any) -> dict[UUID, LiveKey]:
    """All keys that let somebody in now, by the database's clock. A scope that this build does not know is ignored."""
    return {
        key_id: LiveKey(hash_, Caller(name, frozenset(scope for scope in Scope if scope in scopes), key_id))
        for key_id, name, hash_, scopes in await connection.fetch(LIVE)
    }


async def listed(connection: Any, *, also_ended: bool) -> Sequence[Any]:
    """The columns of LISTED, by name; never the digest."""
    rows: Sequence[Any] = await connection.fetch(LISTED, also_ended)
    return rows


async def revoke(connection: Any, name_or_id: str) -> list[UUID]:
    """Revokes the key of this id, or all of this name; those that it revoked."""
    try:
        rows = await connection.fetch(REVOKE_ID, UUID(name_or_id))
    except ValueError:
        rows = await connection.fetch(REVOKE_NAME, name_or_id)
    return [row[0] for row in rows]


async def touch(connection: Any, used: Sequence[UUID]) -> None:
    """Notes that these keys were used just now."""
    await connection.execute(TOUCH, used)
