"""The bounds that hold before anything is parsed: what they count, what they let through, and what parsing costs."""

import csv
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from project.claims import shape
from project.claims.intake import Refused, Unreadable, parse
from project.tests.claims.heavy import HEAVY
from project.tests.service import line

CSV = (Path(__file__).parents[1] / "data" / "claim_1234.csv").read_bytes()
PAD = b" " * shape.SMALL_BYTES  # what makes a body large enough to be looked at


def depth(document: Any) -> int:
    """How many brackets stand around the innermost place."""
    if not isinstance(document, list | dict):
        return 0
    inner = document if isinstance(document, list) else document.values()
    return 1 + max(map(depth, inner), default=0)


def size(document: Any) -> int:
    """How many values there are."""
    if not isinstance(document, list | dict):
        return 1
    inner = document if isinstance(document, list) else document.values()
    return 1 + sum(map(size, inner))


misleading = st.text(st.sampled_from('[]{},"\\/x\n'), max_size=6)
documents = st.recursive(
    st.none() | st.integers() | misleading,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(misleading, inner, max_size=3),
    max_leaves=40,
)


@settings(max_examples=500)
@given(documents, st.integers(1, 8), st.booleans())
def test_nesting_is_counted_outside_of_strings_to_the_level(document: Any, most: int, large: bool) -> None:
    body = json.dumps(document).encode() + (PAD if large else b"")
    deep = shape.json_excess(body, 10_000, most) == "nesting"
    if large:
        assert deep == (depth(document) > most)
    else:  # a few brackets pass unseen; none that the parser could not bear
        assert not deep or depth(document) > most
        assert deep or depth(document) <= most or body.count(b"[") + body.count(b"{") <= most


@given(documents)
def test_no_document_has_more_values_than_are_counted(document: Any) -> None:
    assert size(document) <= 1 + shape._values(json.dumps(document).encode())


@pytest.mark.parametrize("levels", [3, 16])
def test_a_body_may_be_nested_as_deep_as_is_allowed_and_no_deeper(levels: int) -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    with pytest.raises(Refused):
        parse("json", nested(levels), 10, "off", levels)
    for deeper in (nested(levels + 1), b'{"a":' * levels + b"[]" + b"}" * levels, b"[" * 60_000):
        with pytest.raises(Unreadable, match=f"nested deeper than {levels} levels"):
            parse("json", deeper, 10, "off", levels)
    with pytest.raises(Unreadable):
        parse("json", b"[" * (levels + 1), 10, "off", levels)


def test_commas_and_brackets_in_strings_are_no_values() -> None:
    text = ',[{"\\' * 12
    claim = parse("json", json.dumps([line(group_id=text)] * 6000).encode(), 6000, "off")
    assert claim.lines[0].group_id == text
    quoted = CSV.replace(b"GRP-1000", b'"GRP,1000"')
    assert parse("csv", quoted + b"\r\n" * 60_000, 4, "off").lines[0].group_id == "GRP,1000"


def largest_table() -> bytes:
    """The largest CSV that is allowed, each amount with all of its commas and a blank row after each row."""
    rows = io.StringIO()
    writer = csv.DictWriter(rows, line().keys())
    writer.writeheader()
    dear = "$9,999,999,999.99"
    one = line(provider_fees=dear, allowed_fees=dear, member_co_ins=dear, member_co_pay=dear)
    for _ in range(10_000):
        writer.writerow(one)
        rows.write("\r\n")
    return rows.getvalue().encode()


def test_the_largest_claims_are_within_the_bounds() -> None:
    assert shape.json_excess(json.dumps([line()] * 10_000, indent=4).encode(), 10_000, 16) is None
    assert len(parse("csv", largest_table(), 10_000, "off").lines) == 10_000


@pytest.mark.parametrize("name", HEAVY)
def test_no_body_of_16_mib_costs_much_memory_or_time(name: str) -> None:
    make: Callable[[], bytes] = HEAVY[name]
    body = make()
    tracemalloc.start()
    started = time.thread_time()  # other processes do not count
    try:
        with pytest.raises((Refused, Unreadable)):
            parse(name.split()[0], body, 10_000, "warn")
        seconds, (_, peak) = time.thread_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 160 * 1024 * 1024
    assert seconds < 10  # hundreds of milliseconds, when nobody traces each allocation


def test_a_small_claim_pays_nothing_for_the_bounds() -> None:
    body = json.dumps([line()] * 2).encode()
    rounds = 1000
    started = time.thread_time()
    for _ in range(rounds):
        shape.json_excess(body, 10_000, 16)
    bounds = time.thread_time() - started
    started = time.thread_time()
    for _ in range(rounds):
        parse("json", body, 10_000, "warn")
    assert bounds < (time.thread_time() - started) / 8  # a fortieth, on a machine with nothing else to do
