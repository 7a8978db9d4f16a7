"""Time-ordered ids (UUID version 7, RFC 9562) and the instant that each one carries.

Called by `claims.routes` for claims and by whatever else needs an id that sorts by its time of birth.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811  the same, made and written in C (bench: 2 lines)

from project.errors import SettingsError

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_62 = (1 << 62) - 1
_FIRST_YEAR, _LAST_YEAR = 1970, 9000  # far enough from where a calendar ends in some time zone


def new_id() -> UUID:
    """A UUID v7: 48 bits of Unix milliseconds, 12 of the millisecond's fraction (RFC 9562, 6.2 method 3), 62 random.

    Ids made one after the other in a process sort in that order as long as the clock does not step back.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(random_bytes(), "big") & _RANDOM_62
    whole = (milliseconds << 80) | (fraction << 64) | random | _VERSION_AND_VARIANT
    made: UUID = FastUUID(whole.to_bytes(16, "big"))
    return made


_SPARE_BYTES = 8 * 512
_spare: list[bytes] = []


def random_bytes() -> bytes:
    """Eight bytes of the kernel's, which are asked for by the page: each question is a syscall (bench: 2 lines)."""
    try:
        return _spare.pop()
    except IndexError:
        page = os.urandom(_SPARE_BYTES)
        _spare.extend(page[at : at + 8] for at in range(8, _SPARE_BYTES, 8))
        return page[:8]


def born_at(made: UUID) -> datetime:
    """The UTC instant, exact to the millisecond, at which a UUID v7 was made."""
    seconds, rest = divmod(made.int >> 80, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def age_s(made: UUID) -> float:
    """Seconds since a UUID v7 was made, by the clocks of whoever made it and of this machine."""
    return time.time() - (made.int >> 80) / 1000


def first_id_at(instant: datetime) -> UUID:
    """The smallest UUID v7 that can be born at `instant` or later: turns a time filter into a range of ids."""
    milliseconds = -((_EPOCH - instant) // timedelta(milliseconds=1))
    return UUID(int=(max(0, milliseconds) << 80) | _VERSION_AND_VARIANT)


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time with its offset, as an operator types it; SettingsError if it is none."""
    if text is None:
        return None
    try:
        made = datetime.fromisoformat(text)
    except ValueError:
        made = datetime.min  # noqa: DTZ901  refused below, like any other without an offset
    if made.tzinfo is None or not _FIRST_YEAR <= made.year <= _LAST_YEAR:
        raise SettingsError("a time must be RFC 3339 with an offset, such as 2026-11-24T10:00:00Z")
    return made


def received_at(made: UUID) -> str:
    """The instant that a UUID v7 was made at, as it is written on the wire."""
    seconds, milliseconds = divmod(made.int >> 80, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)  # claims that come together have the same (bench: 2 lines)
def _second(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(instant: datetime) -> str:
    """UTC with milliseconds and a Z, the one spelling of an instant on the wire (RFC 3339)."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
