"""The first API keys, from a secret that an operator or a deployment made. Called by `schema` after it migrated.

A line for each key: `NAME SCOPE[,SCOPE...] KEY`, with `#` before a comment. Making them again changes nothing: a key
that is there is left as it is, so one that was revoked stays revoked. No error shows a key.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from project.errors import SettingsError
from project.security import keys, store
from project.security.naming import checked_name, checked_scopes
from project.security.scopes import Scope


@dataclass(frozen=True, slots=True)
class FirstKey:
    """A line of the secret: what is stored of its key, never the key."""

    line: int
    id: UUID
    name: str
    digest: bytes
    scopes: Sequence[Scope]


def parse(text: str) -> list[FirstKey]:
    """The keys of all lines. Raises SettingsError with the number of the first line that is wrong."""
    found: dict[UUID, FirstKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = _parsed(number, words)
        if key.id in found:
            raise _fault(number, f"has the same id as line {found[key.id].line}")
        found[key.id] = key
    return list(found.values())


def _parsed(number: int, words: Sequence[str]) -> FirstKey:
    if len(words) != 3:
        raise _fault(number, "must be NAME SCOPE[,SCOPE...] KEY")
    name, scopes, key = words
    key_id = keys.id_of(key.encode())
    if key_id is None:
        raise _fault(number, "has no key of the form cpk_<32 hexadecimal digits>_<43 letters, digits, - or _>")
    try:
        return FirstKey(number, key_id, checked_name(name), keys.digest(key.encode()), checked_scopes([scopes]))
    except SettingsError:
        # what is in the wrong place could be the key, so the name or the scope is not repeated
        raise _fault(number, f"has a wrong name or scope; scopes are {', '.join(Scope)}") from None


def _fault(number: int, what: str) -> SettingsError:
    return SettingsError(f"API_KEYS line {number} {what}")


async def make(connection: Any, wanted: Sequence[FirstKey]) -> int:
    """Makes those that are not there yet, all or none; how many. Raises SettingsError for an id with another secret."""
    made = 0
    async with connection.transaction():
        for key in wanted:
            if await store.keep(connection, key.id, key.name, key.digest, key.scopes):
                made += 1
            elif not hmac.compare_digest(await store.digest_of(connection, key.id), key.digest):
                raise _fault(key.line, "has the id of a key that is there already, but another secret")
    return made
