"""The form of an API key: `cpk_<id>_<secret>`. Pure; called by the command line, which makes keys, and by `ring`.

The id (32 hexadecimal digits) is public: it finds the key without a search, and tells of a key that turned up where it
should not which one to revoke. The secret is 32 random bytes, so its plain SHA-256 cannot be searched for; only that
digest is stored. The prefix lets secret scanners recognise a key.
"""

import hmac
import re
import secrets
from hashlib import sha256
from uuid import UUID

PREFIX = "cpk_"
SECRET_BYTES = 32
LONGEST = 200  # nothing longer is looked at
_FORM = re.compile(rb"cpk_([0-9a-f]{32})_[A-Za-z0-9_-]{43}\Z")
_NOBODYS = sha256(b"").digest()


def new_key(key_id: UUID) -> str:
    """A key that nobody can guess; it is shown once and kept nowhere."""
    return f"{PREFIX}{key_id.hex}_{secrets.token_urlsafe(SECRET_BYTES)}"


def digest(key: bytes) -> bytes:
    """What is stored of a key."""
    return sha256(key).digest()


def id_of(key: bytes) -> UUID | None:
    """The id that a key names; None when it has not the form of a key."""
    found = _FORM.match(key) if len(key) <= LONGEST else None
    return UUID(found[1].decode()) if found else None


def holds(stored: bytes | None, key: bytes) -> bool:
    """Whether the key has this digest, in a time that tells nothing of it; an unknown key's None takes as long."""
    return hmac.compare_digest(_NOBODYS if stored is None else stored, digest(key)) and stored is not None
