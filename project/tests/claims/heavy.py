"""Bodies of up to 16 MiB that are made to cost as much memory or time as they can. Used by `test_shape` and `flows`.

Each name starts with the kind of the body.
"""

from collections.abc import Callable

BYTES = 16 * 1024 * 1024
WIDE = "\U0001f600".encode()  # makes each character of a string four bytes


def full(unit: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    """As many units as there is room for."""
    return head + unit * ((BYTES - len(head) - len(tail)) // len(unit)) + tail


def array(unit: bytes) -> bytes:
    """An array of that, which ends with a comma."""
    return full(unit, b"[", b"0]")


def numbered(unit: bytes, count: int) -> bytes:
    """An array in which each element has names of its own."""
    return b"[" + b",".join(unit.replace(b"#", b"%d" % number) for number in range(count)) + b"]"


HEAVY: dict[str, Callable[[], bytes]] = {
    "json empty objects": lambda: array(b"{},"),
    "json empty arrays": lambda: array(b"[],"),
    "json integers": lambda: array(b"1,"),
    "json decimals": lambda: array(b"1.5,"),
    "json names that differ": lambda: numbered(b'{"name#":1}', 900_000),
    "json one object of many names": lambda: b"[{" + numbered(b'"name#":1', 1_000_000)[1:-1] + b"}]",
    "json names that occur twice": lambda: array(b'{"a":1,"a":2},'),
    "json as many objects as pass": lambda: numbered(b'{"name#":#.5}', 159_000),
    "json as many that occur twice as pass": lambda: numbered(b'{"a#":"x#","a#":2.5}', 106_000),
    "json brackets in strings": lambda: array(b'"[",'),
    "json brackets in as many strings as pass": lambda: b"[" + b'"[",' * 639_000 + b"0]",
    "json brackets after quotes": lambda: array(b'"\\"[",'),
    "json nothing but quotes": lambda: full(b'"'),
    "json nothing but backslashes": lambda: full(b"\\\\", b'["', b'"]'),
    "json opened only": lambda: full(b"["),
    "json closed only": lambda: full(b"]"),
    "json stairs, then closed only": lambda: full(b"]", (b"[" * 16 + b"]" * 16) * 19_000),
    "json one wide string": lambda: full(b"x", b'["' + WIDE, b'"]'),
    "json one wide string beside a name twice": lambda: full(b"x", b'[{"a":1,"a":"' + WIDE, b'"}]'),
    "json one wide name": lambda: full(b"x", b'[{"' + WIDE, b'":1}]'),
    "json wide strings": lambda: array(b'"' + WIDE + b"x" * 250 + b'",'),
    "json decimals without end": lambda: full(b"9", b'[{"provider_fees":1.', b"}]"),
    "json integer without end": lambda: full(b"9", b'[{"provider_fees":', b"}]"),
    "json exponent without end": lambda: full(b"9", b'[{"provider_fees":1e', b"}]"),
    "json blanks": lambda: full(b" ", b"", b"[]"),
    "csv commas": lambda: full(b","),
    "csv blank lines": lambda: full(b"\n", b"npi,copay\n"),
    "csv carriage returns": lambda: full(b"\r"),
    "csv short lines": lambda: full(b"x\n", b"npi,copay\n"),
    "csv wide lines": lambda: b"npi,copay\n" + (b"," * 1600 + b"\n") * 10_000,
    "csv nothing but quotes": lambda: full(b'"'),
    "csv long cells": lambda: full(b"x" * 120_000 + b",", b"npi," + WIDE + b"\n"),
    "csv long lines": lambda: b"npi,copay\n" + (WIDE + b"x" * 1600 + b"\n") * 9_900,
}
