"""The keyless mode: as long as no API key was ever made, only this machine is served. Pure; called by `door`.

Whoever can connect over a loopback address is let in, so three ways around that are closed: a proxy on this machine
that passes strangers on (it adds a forwarding header), a page in a browser on this machine whose own name was bound
anew to a loopback address (DNS rebinding: the Host is that name), and such a page that posts across origins.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache

_FORWARDING = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-original-host",
        b"x-envoy-external-address",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"fastly-client-ip",
    }
)
_FORWARDED = (b"x-forwarded", b"x-original-forwarded")
_AUTHORITY = re.compile(rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::[0-9]{1,5})?")
_LONGEST_AUTHORITY = 300  # no name is longer (RFC 1035, 2.3.4); longer ones must not fill the cache


def refusal(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], allowed_origins: Sequence[str] = ()
) -> str | None:
    """Why this request is not from this machine's own user; None when it is. Header names are in lower case."""
    if peer is None or not is_loopback(peer):
        return "only this machine is served until an API key is made"
    hosts = []
    for name, value in headers:
        if name in _FORWARDING or name.startswith(_FORWARDED):
            return "a forwarding header is not accepted until an API key is made"
        if name == b"host":
            hosts.append(value)
        elif name == b"origin" and not _is_local_origin(value, allowed_origins):
            return "another origin is not served until an API key is made"
    if len(hosts) != 1 or not _is_local(hosts[0]):
        return "the Host must be a local name until an API key is made"
    return None


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether this is the address of a loopback interface, also as IPv6 writes IPv4's."""
    with suppress(ValueError):
        parsed = ipaddress.ip_address(address)
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return (mapped or parsed).is_loopback
    return False


@lru_cache(maxsize=1024)
def _is_local(authority: bytes) -> bool:
    """Whether this `host` or `host:port` (RFC 3986, 3.2) is `localhost` or a loopback address."""
    found = _AUTHORITY.fullmatch(authority) if len(authority) <= _LONGEST_AUTHORITY else None
    if found is None:
        return False
    host = (found["v6"] or found["name"]).decode().lower()
    return host in ("localhost", "localhost.") or is_loopback(host)


def _is_local_origin(origin: bytes, allowed: Sequence[str]) -> bool:
    scheme, _, authority = origin.partition(b"://")
    return (scheme in (b"http", b"https") and _is_local(authority)) or origin.decode("latin-1") in allowed
