"""The bounded min-heap against sorting."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.providers.top_n import Total, top_n

fees = st.decimals(min_value=-100, max_value=100, places=2)
streams = st.dictionaries(st.from_regex(r"[0-9]{10}", fullmatch=True), fees, max_size=60).map(
    lambda totals: [Total(npi, fee) for npi, fee in totals.items()]
)


@given(streams, st.integers(0, 70))
def test_equals_sorting_whatever_the_stream_and_n(stream: list[Total], n: int) -> None:
    by_rank = sorted(stream, key=lambda total: (-total.net_fee, total.provider_npi))
    assert top_n(stream, n) == by_rank[:n]


@given(st.lists(st.sampled_from(["1.00", "2.00"]), min_size=30, max_size=60), st.integers(1, 25))
def test_ties_come_in_npi_order_however_many_there_are(amounts: list[str], n: int) -> None:
    stream = [Total(f"{1000000000 + number}", Decimal(amount)) for number, amount in enumerate(amounts)]
    ranked = top_n(reversed(stream), n)
    assert ranked == sorted(stream, key=lambda total: (-total.net_fee, total.provider_npi))[:n]


def test_reads_the_stream_once_and_keeps_no_more_than_n() -> None:
    rising = (Total(f"{number:010d}", Decimal(number)) for number in range(100_000))
    assert [total.net_fee for total in top_n(rising, 3)] == [99_999, 99_998, 99_997]
    assert next(rising, None) is None


@pytest.mark.parametrize("n", [0, -1])
def test_asks_nothing_of_the_stream_for_no_places(n: int) -> None:
    assert top_n([Total("1497775530", Decimal("1.00"))], n) == []
