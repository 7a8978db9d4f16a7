"""Values: what each column takes, and which rule anything else breaks."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.claims import values
from project.claims.values import Broken


def outcome(parse: Any, value: object) -> Any:
    """The parsed value, or the name of the rule that it breaks."""
    try:
        return parse(value)
    except Broken as broken:
        assert broken.detail
        return broken.rule


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (100, "100.00"),
        (0, "0.00"),
        (Decimal("100.5"), "100.50"),
        (Decimal("9999999999.99"), "9999999999.99"),
        (Decimal("1E+2"), "100.00"),
        (Decimal("1.5E1"), "15.00"),
        (Decimal("-0.0"), "0.00"),
        ("100", "100.00"),
        ("100.5", "100.50"),
        ("$100.00", "100.00"),
        ("$ 100.00", "100.00"),
        ("1,234.50", "1234.50"),
        ("$9,999,999,999.99", "9999999999.99"),
        (".50", "0.50"),
        ("-0", "0.00"),
        ("-$0.00", "0.00"),
        ("007", "7.00"),
    ],
)
def test_amounts_are_exact_with_two_decimals(value: object, expected: str) -> None:
    assert str(values.amount(value)) == expected


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("100.000", "decimals"),
        (Decimal("100.000"), "decimals"),
        (Decimal("0.000"), "decimals"),
        (Decimal("1E-400"), "decimals"),
        ("0.001", "decimals"),
        (10**10, "digits"),
        ("10000000000", "digits"),
        ("00000000000", "digits"),
        (Decimal("1E+400"), "digits"),
        (Decimal("0E+999999999"), "digits"),
        (10**4000, "digits"),
        (-1, "minimum"),
        (Decimal("-0.01"), "minimum"),
        ("-5.00", "minimum"),
        ("-$5.00", "minimum"),
        ("$-5.00", "minimum"),
        (True, "amount"),
        (False, "amount"),
        ([], "amount"),
        ({}, "amount"),
        (1.5, "amount"),
        *[
            (text, "amount")
            for text in [
                "$", "-", ".", ",", "1,2,3", "$1,2,3", "1,23.00", "12,34", ",123", "1,234,", "1e2", "1E2", "5.", "+5",
                "--5", "0x1", "1_000", "NaN", "nan", "Infinity", "-inf", "１００", "١٠٠", "100\n", "\n100", "1 000", "100 $",
                "(5.00)", "5-", "100.0.0", "USD 5", "5€", "\u00a05", "1" * 41, "1\x00", "$$5", "five", "1/2", "5%",
            ]
        ],
    ],
)  # fmt: skip
def test_anything_else_is_no_amount(value: object, rule: str) -> None:
    assert outcome(values.amount, value) == rule


@given(st.integers(0, 10**12 - 1), st.sampled_from(["", "$", "$ "]), st.booleans())
def test_every_amount_survives_every_spelling(cents: int, sign: str, commas: bool) -> None:
    whole, part = divmod(cents, 100)
    assert values.amount(f"{sign}{whole:,}.{part:02}" if commas else f"{sign}{whole}.{part:02}") == Decimal(cents) / 100
    assert values.amount(Decimal(cents).scaleb(-2)) == Decimal(cents) / 100


@given(st.text() | st.floats().map(str) | st.integers().map(str) | st.decimals().map(str))
def test_any_text_is_an_amount_in_bounds_or_a_broken_rule(text: str) -> None:
    found = outcome(values.amount, text)
    if isinstance(found, Decimal):
        assert 0 <= found < 10**10
        assert found.as_tuple().exponent == -2
        assert text.isascii()
    else:
        assert found in {"amount", "minimum", "decimals", "digits"}


MIDNIGHT = datetime(2018, 3, 28)  # noqa: DTZ001  a wall clock
QUARTER = datetime(2018, 3, 28, 14, 15)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2018-03-28", MIDNIGHT),
        ("20180328", MIDNIGHT),
        ("2018-03-28 00:00:00", MIDNIGHT),
        ("2018-03-28T00:00", MIDNIGHT),
        ("2018-03-28T00:00:00Z", MIDNIGHT),
        ("2018-03-28t00:00:00z", MIDNIGHT),
        ("2018-03-28T00:00:00+14:00", MIDNIGHT),
        ("2018-03-28T00:00:00-0800", MIDNIGHT),
        ("2018-03-28 00:00:00 +00:00", MIDNIGHT),
        ("20180328T141500", QUARTER),
        ("2018-03-28T14", datetime(2018, 3, 28, 14)),  # noqa: DTZ001
        ("2018-03-28T14:15:00.000", QUARTER),
        ("2018-03-28T14:15:00,0000000", QUARTER),
        ("2018-03-28T14:15:00.123456789", QUARTER.replace(microsecond=123456)),
        ("3/28/18 0:00", MIDNIGHT),
        ("3/28/18", MIDNIGHT),
        ("03/28/2018", MIDNIGHT),
        ("3/28/2018 14:15", QUARTER),
        ("3/28/2018 2:15 PM", QUARTER),
        ("3/28/2018 02:15:00pm", QUARTER),
        ("3/28/2018 12:00 AM", MIDNIGHT),
        ("2/29/2016", datetime(2016, 2, 29)),  # noqa: DTZ001
        ("1/1/69", datetime(1969, 1, 1)),  # noqa: DTZ001
        ("1/1/68", datetime(2068, 1, 1)),  # noqa: DTZ001
        ("0001-01-01", datetime(1, 1, 1)),  # noqa: DTZ001
        ("9999-12-31T23:59:59.999999", datetime(9999, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
    ],
)
def test_service_dates_keep_their_wall_clock(value: str, expected: datetime) -> None:
    assert values.service_time(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "tomorrow", "2018", "2018-03", "2018-3-28", "2018-03-2", "2018-0328", "201803-28", "2018-13-01", "2018-02-30",
        "2018-02-29", "0000-01-01", "10000-01-01", "2018-03-28T24:00", "2018-03-28T23:60", "2018-03-28T23:59:60",
        "2018-03-28x00:00", "2018-03-28T", "2018-03-28T00:00:00.", "2018-03-28T00:00+25:00", "2018-03-28\n",
        "2018-03-28T00:00:00\n", "２０１８-03-28", "٢٠١٨-03-28", "28/3/2018", "13/1/2018", "0/1/2018", "2/30/2018", "3/28/018",
        "3/28/18 24:00", "3/28/18 13:00 PM", "3/28/18 0:00 AM", "3/28/18 9", "3-28-2018", "03.28.2018", "Mar 28, 2018",
        "1521849600", "2018-03-28T00:00:00[UTC]", "-2018-03-28", "2018/03/28", "2018-W13-3x", "3/28/18\t0:00", "x" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_no_date(value: str) -> None:
    assert outcome(values.service_time, value) == "date"


@pytest.mark.parametrize("value", [20180328, 1.5, True, [], {}])
def test_a_date_is_a_string(value: object) -> None:
    assert outcome(values.service_time, value) == "type"


@given(st.datetimes(), st.sampled_from(["T", " ", "t"]), st.sampled_from(["", "Z", "+05:30", "-0800"]))
def test_every_iso_date_time_is_read_back(moment: datetime, separator: str, offset: str) -> None:
    assert values.service_time(moment.isoformat(separator) + offset) == moment


@given(st.text(max_size=45))
def test_any_text_is_a_date_or_a_broken_rule(text: str) -> None:
    assert isinstance(outcome(values.service_time, text), datetime | str)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1497775530", "1497775530"), (1497775530, "1497775530"), ("0000000000", "0000000000"), (149777553, "npi"),
        (14977755300, "npi"), ("149777553", "npi"), ("14977755300", "npi"), ("１４９７７７５５３０", "npi"), ("149777553x", "npi"),
        ("1497775530\n", "npi"), (True, "npi"), (1497775530.0, "npi"), (Decimal("1497775530.0"), "npi"), ([], "npi"),
        (-1497775530, "npi"), ("1 497775530", "npi"), (10**4000, "npi"),
    ],
)  # fmt: skip
def test_an_npi_is_ten_digits(value: object, expected: str) -> None:
    assert outcome(values.npi, value) == expected


@pytest.mark.parametrize(
    ("number", "holds"), [("1234567893", True), ("1497775530", True), ("1497775540", False), ("1234567890", False)]
)
def test_the_check_digit_is_luhns_over_80840_and_the_npi(number: str, holds: bool) -> None:
    assert values.npi_check_digit_holds(number) is holds


@given(st.integers(0, 10**9 - 1))
def test_just_one_check_digit_of_ten_holds(stem: int) -> None:
    assert sum(values.npi_check_digit_holds(f"{stem:09d}{digit}") for digit in range(10)) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("D0180", "D0180"), ("d4211", "D4211"), ("D018", "cdt"), ("D01800", "cdt"), ("0180", "cdt"), ("D０180", "cdt"),
        ("D0180\n", "cdt"), ("DD018", "cdt"), (180, "type"), (None, "type"),
    ],
)  # fmt: skip
def test_a_procedure_is_a_cdt_code(value: object, expected: str) -> None:
    assert outcome(values.procedure, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("GRP-1000", "GRP-1000"), ("x" * 64, "x" * 64), ("Zoë Ωmega 名", "Zoë Ωmega 名"), ("x" * 65, "length"), (1000, "type"),
        (True, "type"), (["a"], "type"), ("a\nb", "characters"), ("a\rb", "characters"), ("a\x00b", "characters"),
        ("\x1b[31m", "characters"), ("a\x7f", "characters"), ("a\x85b", "characters"), ("a\u2028b", "characters"),
        ("\ud800", "characters"),
    ],
)  # fmt: skip
def test_text_has_1_to_64_printable_characters(value: object, expected: str) -> None:
    assert outcome(values.text, value) == expected
