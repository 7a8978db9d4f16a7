"""Time-ordered ids (UUID version 7, RFC 9562) and the instant that each one carries.

Called by `claims.routes` for claims and by whatever else needs an id that sorts by its time of birth.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_62 = (1 << 62) - 1


def new_id() -> UUID:
    """A UUID v7: 48 bits of Unix milliseconds, 12 of the millisecond's fraction (RFC 9562, 6.2 method 3), 62 random.

    Ids made one after the other in a process sort in that order as long as the clock does not step back.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") & _RANDOM_62
    return UUID(int=(milliseconds << 80) | (fraction << 64) | random | _VERSION_AND_VARIANT)


def born_at(made: UUID) -> datetime:
    """The UTC instant, exact to the millisecond, at which a UUID v7 was made."""
    seconds, rest = divmod(made.int >> 80, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def first_id_at(instant: datetime) -> UUID:
    """The smallest UUID v7 that can be born at `instant` or later: turns a time filter into a range of ids."""
    milliseconds = -((_EPOCH - instant) // timedelta(milliseconds=1))
    return UUID(int=(max(0, milliseconds) << 80) | _VERSION_AND_VARIANT)


def rfc3339(instant: datetime) -> str:
    """UTC with milliseconds and a Z, the one spelling of an instant on the wire (RFC 3339)."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
