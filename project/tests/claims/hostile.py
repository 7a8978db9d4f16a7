"""A table of bodies that must be refused, with the statuses that may answer each. Used by `flows/test_hostile_bodies`.

Wherever a body has room for one, it holds a MARK, which must be found nowhere afterwards. What is not said is what a
good claim says, so that each body is refused for the one thing that is wrong with it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from project.tests.claims.heavy import HEAVY
from project.tests.service import line

MARK = "MARKED-SUBSCRIBER-4711"
JSON = "application/json"
CSV = "text/csv"


class Hostile(NamedTuple):
    """A request to POST /claims. `headers` may say a name twice."""

    name: str
    statuses: frozenset[int]
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON),)


GOOD = json.dumps(line(subscriber_id=MARK))
TABLE_HEAD = ",".join(line())
TABLE_ROW = f"2018-03-28,D0180,UR,GRP-1000,{MARK},1497775530,100,100,0,0"
TABLE = f"{TABLE_HEAD}\n{TABLE_ROW}\n"


def said(field: str, token: str) -> bytes:
    """The good claim with this JSON text as the value of a field, and its mark in another place if that was it."""
    rest = {name: value for name, value in json.loads(GOOD).items() if name != field}
    rest["group_id" if field == "subscriber_id" else "subscriber_id"] = MARK
    return f'[{json.dumps(rest)[:-1]}, "{field}": {token}}}]'.encode()


# field -> JSON texts that are JSON, and no value of that field
_AMOUNTS = (
    '"$1,2,3"', '"1,23"', '"12,34,567"', '"1,2345"', '",1"', '"1,"', '"1.234"', "1.234", "100.000", '"100.000"', "-1",
    '"-1"', '"$-1"', '"-$1"', '"(1.00)"', '"1e3"', '"0x10"', '"1_000"', '"NaN"', '"Infinity"', '"-inf"',
    '"\u0661\u0662\u0663"', '"\uff11\uff12"', '"\u00b2"', '"\u20ac5"', '"$$5"', '"$"', '","', '"."', '"1."', '"1 000"',
    '"1\\u00a0"', '"1\\n"', '"1\\u0000"', "true", "false", "[]", "{}", "[1]", '{"a": 1}', "1e10", "1e308", "1e400",
    "1e-3", "1e-400", "-0.01", '"--1"', '"+1"', "10000000000", "99999999999.99", "123456789012345678901234567890",
    "0.000000000000000000001", "1E+99999", '"' + "9" * 50 + '"', '"' + "0" * 10_000 + '"', "1." + "0" * 5000, "null",
    '""', '" "', '"1;DROP TABLE claim"', '"${7*7}"', "0e-99999", "-1e99999",
)  # fmt: skip
_DATES = (
    '"tomorrow"', '"2018-13-01"', '"2018-02-30"', '"2018-00-10"', '"0000-01-01"', '"13/45/2018"', '"3/28/2018 25:00"',
    '"2018-03-28T24:00:00"', '"2018-03-28T23:60"', '"2018-3-28"', '"20180328T"', "1522195200", "true", "[]", "{}",
    "null", '"\uff12\uff10\uff11\uff18-03-28"', '"2018-03-28\\n"', '"2018-03-28T00:00:00+99:99"', '"2018-W13-3"',
    '"2018-087"', '"28.03.2018"', '"2/29/2019"', '"\\u0000"', '"' + "1" * 10_000 + '"', '"99999-01-01"',
    '"-2018-01-01"', '"2018-03-28T00:00:60"', '"now"', '"epoch"', '"3/28/18 13:00 PM"',
)  # fmt: skip
_NPIS = (
    '"149777553"', '"14977755300"', "149777553", "1497775530.0", "-1497775530", '"1497775530\\n"', '"149777553O"',
    '"\uff11\uff14\uff19\uff17\uff17\uff17\uff15\uff15\uff13\uff10"', "true", "[]", '"1 497775530"', "1.49777553e9",
    '"+1497775530"', '"\\u0661497775530"', "null", "1e400", '"1497775530\\u0000"', "99999999999999999999999",
)  # fmt: skip
_PROCEDURES = (
    '"D018"', '"D01800"', '"0180"', '"D0180\\n"', '"\uff240180"', '"D\u0660\u0661\u0668\u0660"', "180", "true", "null",
    "[]", '"E0180"', '"D 0180"', '"D0180; DROP TABLE claim"', '"\\u0000"', '"D0180\\u0000"',
)  # fmt: skip
_TEXTS = (
    '"' + "x" * 65 + '"', '"\\u0000"', '"a\\u0000b"', '"a\\nb"', '"a\\u2028b"', '"\\u0085"', "7", "true", "[]", "{}",
    "null", '"   "', '"a\\u007fb"', '"\\u001b[31m"', '"' + "\U0001f600" * 100_000 + '"', "1.5",
)  # fmt: skip
BROKEN_VALUES = {
    "provider_fees": _AMOUNTS,
    "member_co_pay": ('"$1,2,3"', "-0.01", "1e400", "null", "{}"),
    "service_dttm": _DATES,
    "provider_npi": _NPIS,
    "submitted_proc": _PROCEDURES,
    "group_id": _TEXTS,
    "subscriber_id": ("7", "null", '"\\u0000"', '"' + "x" * 65 + '"', '["PHI"]'),
    "quadrant": ("7", "true", "[]", '"' + "x" * 65 + '"', '"\\u0000"', '"U\\nR"'),
}
# what stands where a value should, and is no JSON
_NO_TOKENS = (
    "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_000", "$1", "nul", "True", "'1'", "1e", "--1", "",
    "1e99999999999999999999", "9" * 5000, '"\\x41"', '"\\ud800"', '"\\udc00\\ud800"', '"a\tb"', '"a\x00b"', '"open',
    "undefined", "/**/1", "\u00bd", "1 2", '"a" "b"',
)  # fmt: skip


def broken_values() -> Iterator[Hostile]:
    """One value that breaks its rule, or is none."""
    for field, tokens in BROKEN_VALUES.items():
        for token in tokens:
            yield Hostile(f"{field}: {token[:40]}", frozenset({422}), said(field, token))
    for token in _NO_TOKENS:
        yield Hostile(f"no JSON: {token[:40]!r}", frozenset({400}), said("provider_fees", token))


def _json(name: str, status: int, text: str | bytes) -> Hostile:
    return Hostile(name, frozenset({status}), text if isinstance(text, bytes) else text.encode())


def shapes() -> Iterator[Hostile]:
    """JSON that is no claim, and what is not JSON."""
    wide = json.dumps(line() | {f"column{number}": MARK for number in range(201)})
    for text in (
        "[]", "{}", "null", "true", "0", f'"{MARK}"', "[[]]", "[null]", "[1]", f'["{MARK}"]', '{"lines": null}',
        '{"lines": []}', '{"lines": {}}', f'{{"lines": "{MARK}"}}', f'{{"claim_number": "{MARK}"}}', f"[[{GOOD}]]",
        f'{{"lines": [{GOOD}], "LINES": []}}', f'{{"lines": [{GOOD}], "net_fee": 1}}', f"{{\"claims\": [{GOOD}]}}", GOOD,
        f'{{"lines": [{GOOD}], "claim_number": "{MARK * 3}"}}', f'{{"lines": [{GOOD}], "claim_number": ["{MARK}"]}}',
        f'{{"lines": [{GOOD}], "claim_number": "\\u0000"}}', f"[{GOOD}, {{}}]", f"[{GOOD}, null]", f"[{wide}]",
        f'[{GOOD[:-1]}, "colour": "{MARK}"}}]', f'[{GOOD[:-1]}, "id": "{MARK}"}}]', f'[{GOOD[:-1]}, "net_fee": 0}}]',
        f'[{GOOD[:-1]}, "subscriber_id": "{MARK}"}}]', f'[{GOOD[:-1]}, "Member ID": "{MARK}"}}]',
        f'[{GOOD[:-1]}, "\\u0000": 1}}]', f'[{GOOD[:-1]}, "__proto__": {{"a": 1}}}}]', f'[{GOOD[:-1]}, "": ""}}]',
        f'[{GOOD[:-1]}, "{"k" * 100_000}": 1}}]', "[" * 16 + "]" * 16, f"[{', '.join([GOOD] * 10_001)}]",
        f'{{"lines": [{GOOD}], "lines": [{GOOD}]}}', "[" + ",".join([f'"{MARK}"'] * 400_000) + "]",
    ):  # fmt: skip
        yield _json(f"no claim: {text[:40]}", 422, text)
    for text in (
        "", " ", "{", "[", "[{]", "[,]", f"[{GOOD},]", f"[{GOOD}", f"[{GOOD}]]", f"[{GOOD}] x", f"[{GOOD}][{GOOD}]",
        f"{GOOD}\n{GOOD}\n", f"// {MARK}\n[{GOOD}]", f"[{GOOD.replace(chr(34), chr(39))}]", GOOD[:-10], f"[{GOOD}]\x00",
        f"\x00[{GOOD}]", f"[{GOOD}]\x1a", f"<claim>{MARK}</claim>", f"subscriber_id={MARK}", TABLE, f"\ufeff\ufeff[{GOOD}]",
        "[" * 17 + f'"{MARK}"' + "]" * 17, '{"a":' * 17 + "{}" + "}" * 17, "[" * 100_000, '[{"a":' * 50_000,
        f'[{GOOD}, {"[" * 300}{"]" * 300}]', f"while(1);[{GOOD}]", "[" + GOOD.replace(":", "=") + "]", "\ufeff",
    ):  # fmt: skip
        yield _json(f"no JSON: {text[:40]}", 400, text)
    good = f"[{GOOD}]"
    for name, raw in {
        "UTF-16": good.encode("utf-16"),
        "UTF-16 without a mark": good.encode("utf-16-le"),
        "UTF-32": good.encode("utf-32"),
        "UTF-7": f"[{GOOD}+AGE-]".encode(),
        "Latin-1": good.replace("GRP", "\u00e9").encode("latin-1"),
        "an overlong form": good.encode().replace(b"GRP", b"\xc0\x80"),
        "a surrogate": good.encode().replace(b"GRP", b"\xed\xa0\x80"),
        "past the last code point": good.encode().replace(b"GRP", b"\xf4\x90\x80\x80"),
        "a character cut in two": good.encode()[:-3] + b'\xe2\x82"}]',
        "a lonely continuation": b"\x80" + good.encode(),
        "a picture": b"\x89PNG\r\n\x1a\n" + MARK.encode(),
    }.items():
        yield _json(f"encoding: {name}", 400, raw)


def tables() -> Iterator[Hostile]:
    """CSV that is no claim, and what is not CSV."""
    row = TABLE_ROW
    for text in (
        "", "\n\n\n", TABLE_HEAD, TABLE_HEAD + "\n\n\n", row, f"{row}\n{row}\n", TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"), f"{TABLE}{row},1\n", f"{TABLE}{row[:-2]}\n", f"{TABLE}{MARK}\n",
        TABLE.replace("quadrant", "npi"), TABLE.replace("quadrant", MARK), TABLE.replace("quadrant", "net_fee"),
        TABLE.replace("quadrant", ""), TABLE.replace("D0180", '"D0180\n"'), TABLE.replace("D0180", "=cmd|'/c calc'!A1"),
        TABLE.replace("100", "$1,100", 1), TABLE.replace("GRP-1000", "a\x00b"), TABLE.replace("UR", "\x1b[2J"),
        TABLE.replace("1497775530", "\u0661497775530"), GOOD.replace('"', ""),
        TABLE_HEAD + "\n" + f"{row}\n" * 10_001, f"{MARK}\n" * 700_000, TABLE_HEAD + "\n" + "x\n" * 1_000_000,
        f"{MARK}," * 100_000, TABLE + "\n" * 1_000_000, TABLE_HEAD + "\n" + ("," * 100 + "\n") * 10_000,
        f"{TABLE_HEAD},{TABLE_HEAD}\n{row},{row}\n", f"# {MARK}\n{TABLE}", f"sep=,\n{TABLE}",
    ):  # fmt: skip
        yield Hostile(f"no table: {text[:40]!r}", frozenset({422}), text.encode(), (("Content-Type", CSV),))
    for name, raw in {
        "JSON": f"[{GOOD}]".encode(),
        "a quote left open": f'{TABLE}"{MARK}'.encode(),
        "a quote closed too early": TABLE.replace("UR", '"U"R').encode(),
        "a cell without end": f'{TABLE}"'.encode() + b"x" * 200_000,
        "Latin-1": TABLE.replace("UR", "\u00e9").encode("latin-1"),
        "UTF-16": TABLE.encode("utf-16"),
    }.items():
        yield Hostile(f"no CSV: {name}", frozenset({400}), raw, (("Content-Type", CSV),))


def media() -> Iterator[Hostile]:
    """Good claims under another name, and claims that say what they are in the wrong place."""
    good = f"[{GOOD}]".encode()
    for kind in (
        "", "text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/octet-stream", "application/jsonx", "application/json-seq", "text/json", "*/*", "json", "/", ";",
        "application/json, text/csv", "application/json;charset=utf-16", "application/json; charset=utf-7", "text/csv; charset=latin-1",
        "application/json;x=1;charset=cp037", "a" * 4000, "application/x-ndjson", "application/vnd.api+json",
    ):  # fmt: skip
        yield Hostile(f"media type: {kind[:40]}", frozenset({415}), good, (("Content-Type", kind),))
    yield Hostile("no media type", frozenset({415}), good, ())
    for key in ("", '""', "x" * 256, '"open', '"a"b"', "a\tb", '"\\x"', "\u00e9"):
        yield Hostile(f"key: {key[:20]}", frozenset({400}), good, (("Content-Type", JSON), ("Idempotency-Key", key)))
    twice = (("Content-Type", JSON), ("Idempotency-Key", "a"), ("Idempotency-Key", "a"))
    yield Hostile("two keys", frozenset({400}), good, twice)


def packed() -> Iterator[Hostile]:
    """What is not the gzip that it says, and gzip that should not be unpacked."""
    good = f"[{GOOD}]".encode()
    whole = gzip.compress(good)
    bomb = gzip.compress(b" " * 64 * 1024 * 1024)
    marked = (("Content-Type", JSON), ("Content-Encoding", "gzip"))
    for name, statuses, body in (
        ("cut off", {400}, whole[:-12]),
        ("cut off in its header", {400}, whole[:5]),
        ("not packed", {400}, good),
        ("zlib", {400}, zlib.compress(good)),
        ("raw deflate", {400}, zlib.compress(good)[2:-4]),
        ("nothing", {400}, b""),
        ("garbage behind it", {400}, whole + b"garbage"),
        ("a wrong checksum", {400}, whole[:-8] + b"\0\0\0\0" + whole[-4:]),
        ("a wrong length", {400}, whole[:-4] + b"\xff\xff\xff\xff"),
        ("a flipped bit", {400}, whole[:40] + bytes([whole[40] ^ 4]) + whole[41:]),
        ("packed twice", {400}, gzip.compress(whole)),
        ("very many members", {400}, gzip.compress(b" ") * 5000),
        ("a bomb of 64 MiB", {413}, bomb),
        ("a bomb behind a claim", {413}, whole + bomb),
        ("one byte too many", {413}, gzip.compress(b" " * (16 * 1024 * 1024 + 1))),
        ("a million objects", {422}, gzip.compress(b"[" + b"{}," * 1_000_000 + b"{}]")),
        ("a few bytes of names twice", {422}, gzip.compress(b"[[" + b'{"a":1,"a":2},' * 100_000 + b"{}]]", 9)),
        ("deep nesting", {400}, gzip.compress(b"[" * 300_000)),
    ):
        yield Hostile(f"gzip: {name}", frozenset(statuses), body, marked)
    for encoding in ("br", "deflate", "zstd", "gzip, gzip", "x-gzip", "gzip;q=1", "compress", "identity, gzip", "*"):
        headers = (("Content-Type", JSON), ("Content-Encoding", encoding))
        yield Hostile(f"encoding: {encoding}", frozenset({415}), whole, headers)


def large() -> Iterator[Hostile]:
    """Too many bytes, and bodies that just fit and are made to cost as much as they can."""
    yield _json("one byte too many", 413, f"[{GOOD}]".encode().ljust(16 * 1024 * 1024 + 1))
    for name, make in HEAVY.items():
        kind = JSON if name.startswith("json") else CSV
        yield Hostile(f"heavy: {name}", frozenset({400, 422}), make(), (("Content-Type", kind),))


def all_of_them() -> Iterator[Hostile]:
    """The table, made as it is read: the last ones are large."""
    for group in (broken_values, shapes, tables, media, packed, large):
        yield from group()
