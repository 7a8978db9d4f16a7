"""What a key may be called and which scopes there are to give. Pure; called by `commands` and `first_keys`."""

import re
from collections.abc import Sequence
from uuid import UUID

from project.errors import SettingsError
from project.security.scopes import Scope

# It becomes a client's name: in rows, log lines and Redis keys. `worker` is who acts when no client does.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z", re.ASCII)
_TAKEN = frozenset({"worker"})


def checked_name(name: str) -> str:
    """A name that can be a client's; it must not look like an id, or `revoke` could not tell them apart."""
    if not _NAME.match(name) or name in _TAKEN or _is_id(name):
        raise SettingsError("a name has 1 to 64 letters, digits or ._@- and is neither an id nor `worker`")
    return name


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True


def checked_scopes(words: Sequence[str]) -> list[Scope]:
    """The scopes, each once, in their own order."""
    named = {word.strip() for given in words for word in given.split(",")}
    if unknown := named - set(Scope):
        raise SettingsError(f"no such scope: {', '.join(sorted(unknown))}; there are {', '.join(Scope)}")
    return [scope for scope in Scope if scope in named]
