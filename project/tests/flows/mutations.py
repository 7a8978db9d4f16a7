"""Requests that hypothesis makes: noise, and good claims with something changed. Used by `test_mutated_requests`."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from project.claims.columns import ALIASES, FIELDS, field_of, fold
from project.ids import new_id
from project.tests.service import line


class Post(NamedTuple):
    """A request to POST /claims."""

    body: bytes
    headers: dict[str, str]

    def net_fee(self) -> Decimal:
        """What the net fee must be if the claim is accepted: read as simply as it can be, and summed."""
        body = gzip.decompress(self.body) if self.headers.get("Content-Encoding", "").lower() == "gzip" else self.body
        if "csv" in self.headers["Content-Type"].lower():
            table = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), skipinitialspace=True)
            return sum((_net_fee(row) for row in table), Decimal(0))
        document = json.loads(body, parse_float=Decimal)
        if isinstance(document, dict):
            [document] = [cell for name, cell in document.items() if fold(name) == "lines"]
        return sum((_net_fee(row) for row in document), Decimal(0))


def _net_fee(row: dict[str, Any]) -> Decimal:
    amounts = {field_of(name): re.sub("[$, \t]", "", str(cell)) for name, cell in row.items()}
    provider, allowed, co_ins, co_pay = (Decimal(amounts[field]) for field in FIELDS[6:])
    return provider + co_ins + co_pay - allowed


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str)
    | st.sampled_from(["NaN", "1e400", "$1,2,3", "\u0661\u0662", "a\x00b", "2018-02-30", "1497775530", "D0180", 10**30])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
names = st.sampled_from([*FIELDS, *(alias for aliases in ALIASES.values() for alias in aliases), "id", "net_fee"])


def _change(draw: st.DrawFn, row: dict[str, Any]) -> None:
    """One column less, one more, one under another name, or with another value."""
    name = draw(st.sampled_from(sorted(row))) if row else ""
    match draw(st.sampled_from(["drop", "add", "rename", "replace", "replace", "swap"])):
        case "drop":
            row.pop(name, None)
        case "add":
            row[draw(names | st.text(max_size=20))] = draw(anything)
        case "rename":
            row[draw(names)] = row.pop(name, None)
        case "replace":
            row[name] = draw(anything)
        case _:
            other = draw(st.sampled_from(sorted(row))) if row else ""
            row[name], row[other] = row.get(other), row.get(name)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few lines, with none to three changes."""
    made = [
        line(
            provider_npi=draw(st.from_regex(r"[0-9]{10}", fullmatch=True)),
            provider_fees=draw(st.integers(0, 10**12 - 1)) / 100,
            subscriber_id=draw(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=64)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        _change(draw, draw(st.sampled_from(made)))
    return made


def _as_csv(made: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(list(made[0]))
    writer.writerows(list(row.values()) for row in made)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _as_json(made: Any) -> bytes:
    return json.dumps(made).encode()


def _twice(made: Any) -> bytes:
    """Every member occurs twice."""
    return _as_json(made).replace(b'{"', b'{"quadrant": null, "')


documents: st.SearchStrategy[tuple[bytes, str]] = st.one_of(
    rows().map(lambda made: (_as_json(made), "application/json")),
    st.tuples(anything, rows()).map(lambda two: (_as_json({"claim_number": two[0], "lines": two[1]}), "application/json")),
    rows().map(lambda made: (_twice(made), "application/json")),
    rows().map(lambda made: (_as_csv(made), "text/csv")),
    anything.map(lambda made: (_as_json(made), "application/json")),
    st.tuples(st.binary(max_size=300), st.sampled_from(["application/json", "text/csv"])),
)  # fmt: skip


def _cut(draw: st.DrawFn, body: bytes) -> bytes:
    return body[: draw(st.integers(0, len(body)))]


def _flip(draw: st.DrawFn, body: bytes) -> bytes:
    place, bit = draw(st.integers(0, max(len(body) - 1, 0))), draw(st.integers(0, 7))
    return body[:place] + bytes(byte ^ (1 << bit) for byte in body[place : place + 1]) + body[place + 1 :]


def _insert(draw: st.DrawFn, body: bytes) -> bytes:
    place = draw(st.integers(0, len(body)))
    return body[:place] + draw(st.binary(min_size=1, max_size=9)) + body[place:]


def _repeat(draw: st.DrawFn, body: bytes) -> bytes:
    start, stop = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
    return body[:stop] + body[start:]


def _same(_: st.DrawFn, body: bytes) -> bytes:
    return body


_ACCIDENTS: tuple[Callable[[st.DrawFn, bytes], bytes], ...] = (_same, _same, _same, _cut, _flip, _insert, _repeat)

header_texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=300)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Idempotency-Key": header_texts | st.sampled_from(["a", '"b"', "x" * 255]),
        "Prefer": header_texts | st.sampled_from(["return=minimal", "return=representation, wait=1"]),
        "X-Request-ID": header_texts,
        "Accept": header_texts,
        "Accept-Encoding": header_texts,
        "Cookie": header_texts,
    },
)


@st.composite
def posts(draw: st.DrawFn) -> Post:
    """A claim, or what is left of it, as it came, packed, or said to be something else."""
    body, kind = draw(documents)
    told = draw(headers) if draw(st.booleans()) else {}
    sent = {name: value.strip() for name, value in told.items()}
    accident = draw(st.sampled_from(_ACCIDENTS))
    body = accident(draw, body)
    if draw(st.integers(0, 3)) == 0:
        body = draw(st.sampled_from(_ACCIDENTS))(draw, gzip.compress(body, 1))
        sent["Content-Encoding"] = "gzip"
    if draw(st.integers(0, 9)) == 0:
        kind = draw(header_texts).strip()
    if draw(st.integers(0, 19)) == 0:
        sent["Content-Encoding"] = draw(header_texts).strip()
    return Post(body, {"Content-Type": kind, **sent})


PATHS = (
    "/claims", "/claims/{}", "/claims/{}/events", "/top-provider", "/dead-letters", "/dead-letters/{}",
    "/hello", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/redoc", "/docs-assets/{}", "/{}",
)  # fmt: skip
_PARAMETERS = (
    "limit",
    "cursor",
    "status",
    "state",
    "reason",
    "provider_npi",
    "claim_number",
    "received_after",
    "received_before",
)
_VALUES = (
    "0", "1", "-1", "200", "201", "1e9", "99999999999999999999", "\u0663", "paid", "accepted", "reversing", "reversed",
    "refused", "1497775530", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-02-30T00:00:00Z", "-1",
    "2026-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-01", "1e400", "nan",
    "1969-12-31T23:59:59Z", "10889-08-02T05:31:50Z", "\x00", "a\x00b", "\ud800", "AAAAAAAAAAAAAAAAAAAAAA",
    "_____________________w", "A" * 22 + "==", "=" * 9, "%", "\u2028", "x" * 64, "x" * 65, "null", "",
)  # fmt: skip
identifiers = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda one: one.urn),
    st.uuids().map(lambda one: "{" + str(one).upper() + "}"),
    st.uuids().map(lambda one: one.hex),
    st.builds(lambda: str(new_id())),
    st.sampled_from(["0", "..", "../..", ".", "", "%", "*", "f" * 4000, "\x00", "\u0661" * 32, "swagger-ui.css", "-1"]),
    st.text(max_size=40),
)


def _escaped(text: str) -> str:
    """Percent-encoded, surrogates and all."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def gets(draw: st.DrawFn) -> str:
    """The target of a GET: each route with parameters of its own, of others, and of nobody."""
    path = draw(st.sampled_from(PATHS)).format(_escaped(draw(identifiers)))
    pairs = draw(
        st.lists(
            st.tuples(
                st.sampled_from(_PARAMETERS) | st.text(max_size=9),
                st.sampled_from(_VALUES) | st.text(max_size=30) | st.datetimes().map(lambda when: f"{when.isoformat()}Z"),
            ),
            max_size=3,
        )
    )  # fmt: skip
    query = "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in pairs)
    return f"{path}?{query}" if query else path
