"""W3C Trace Context (level 1): the `traceparent` that a request brings, and that its claim keeps on its way.

Pure. Called by `telemetry.http`, which takes it off requests, and by `tracing`. It travels whether spans are made or
not: in the payment row, to the payments service, in the events. `tracestate` and `baggage` do not, because they are
free text of the client's.
"""

import re

# The version may be a later one, which may add more behind the flags; "ff" is none, and zeros are no ids.
_FORM = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<rest>-.*)?",
    re.ASCII,
)


def accepted(header: str) -> str | None:
    """The header in the form of version 00, if it is well formed; a malformed one counts as none."""
    found = _FORM.fullmatch(header.strip(" \t"))
    if found is None or (found["version"] == "00" and found["rest"]):
        return None
    return f"00-{found['ids']}"


def trace_id(traceparent: str) -> str:
    """The trace that it belongs to: 32 hexadecimal digits, the same in logs, spans and events."""
    return traceparent[3:35]
