"""What a request's headers say about its body and the answer. Pure; called by `routes`.

All headers are looked at once, since each look at them costs as much as checking a column (bench: 2 lines).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from project.errors import Problem

Head = Mapping[bytes, Sequence[bytes]]
"""Those of the headers below that came, each with all its values."""

_WANTED = frozenset({b"content-type", b"content-encoding", b"content-length", b"idempotency-key", b"prefer"})
_LONGEST_TYPE = 200  # longer ones must not fill the cache
_QUOTED_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"\Z')
_BARE_KEY = re.compile(r"[\x21\x23-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")


def read(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """The headers that are asked for below. Names are in lower case, as ASGI has them."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _WANTED:
            found.setdefault(name, []).append(value)
    return found


def _first(head: Head, name: bytes) -> str:
    values = head.get(name)
    return values[0].decode("latin-1") if values else ""


def media_type(head: Head, accepted: Mapping[str, str]) -> str:
    """The value in `accepted` of the body's media type; any charset but UTF-8, and any other type, is 415."""
    offered = _first(head, b"content-type")
    essence = _essence(offered) if len(offered) <= _LONGEST_TYPE else _essence.__wrapped__(offered)
    kind = accepted.get(essence) if essence else None
    if kind is None:
        raise Problem(
            415,
            "Unsupported Media Type",
            f"send {' or '.join(sorted(accepted))}, in UTF-8",
            headers={"Accept-Post": ", ".join(sorted(accepted))},
        )
    return kind


@lru_cache(maxsize=256)
def _essence(content_type: str) -> str | None:
    """The type without its parameters; None if they name a charset other than UTF-8."""
    essence, _, parameters = content_type.partition(";")
    charset = next(
        (value.strip(' "').lower() for name, _, value in map(_split, parameters.split(";")) if name == "charset"),
        "utf-8",
    )
    return essence.strip().lower() if charset in ("utf-8", "utf8", "us-ascii") else None


def _split(parameter: str) -> tuple[str, str, str]:
    name, equals, value = parameter.partition("=")
    return name.strip().lower(), equals, value


def is_packed(head: Head) -> bool:
    """Whether the body comes as gzip; another Content-Encoding is a 415 Problem."""
    encoding = _first(head, b"content-encoding").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise Problem(
            415, "Unsupported Media Type", "the only Content-Encoding is gzip", headers={"Accept-Encoding": "gzip"}
        )
    return encoding == "gzip"


def content_length(head: Head) -> int:
    """How long the body says it is; 0 if it does not say."""
    declared = _first(head, b"content-length")
    return int(declared[:20]) if declared.isascii() and declared.isdigit() else 0


def idempotency_key(head: Head) -> str | None:
    """The Idempotency-Key, quoted (RFC 8941, a string) or bare; a malformed one is a 400 Problem."""
    offered = head.get(b"idempotency-key")
    if not offered:
        return None
    value = offered[0].decode("latin-1").strip(" \t")
    quoted = _QUOTED_KEY.match(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if len(offered) > 1 or not 1 <= len(key) <= 255 or not (quoted or _BARE_KEY.match(value)):
        raise Problem(400, "Bad Idempotency-Key", "one Idempotency-Key of 1 to 255 printable ASCII characters")
    return key


def prefers_minimal(head: Head) -> bool:
    """Whether a Prefer header (RFC 7240) asks for `return=minimal`; the first `return` of several counts."""
    for header in head.get(b"prefer", ()):
        for preference in header.decode("latin-1").split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "return":
                return value.strip(' \t"').lower() == "minimal"
    return False
