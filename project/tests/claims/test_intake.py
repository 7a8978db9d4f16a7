"""Intake: whole bodies to claims or to all of their faults."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from project.claims.columns import ALIASES, FIELDS
from project.claims.intake import FAULTS_SHOWN, Refused, Unreadable, parse
from project.claims.lines import ParsedClaim
from project.tests.service import line

MARK = "PHI-MARKED-77"
CSV = (Path(__file__).parents[1] / "data" / "claim_1234.csv").read_bytes()


def accepted(body: Any, kind: str = "json", npi_check: Any = "off") -> ParsedClaim:
    """The claim of a body that has no fault."""
    return parse(kind, body if isinstance(body, bytes) else json.dumps(body).encode(), 10_000, npi_check)


def faults(
    body: Any, kind: str = "json", max_lines: int = 10_000, npi_check: Any = "off"
) -> list[tuple[Any, str, str]]:
    """The faults of a refused body, whose marked value must occur in none of them."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as refused:
        parse(kind, raw, max_lines, npi_check)
    assert MARK not in repr(refused.value.faults) + str(refused.value) + repr(refused.value)
    return [(fault.line, fault.field, fault.rule) for fault in refused.value.faults]


def test_the_example_gives_the_fees_of_the_assignment() -> None:
    claim = accepted(CSV, "csv", "strict")
    assert [str(line.net_fee) for line in claim.lines] == ["0.00", "0.00", "81.25", "35.60"]
    assert (str(claim.net_fee), claim.warnings, claim.claim_number) == ("116.85", [], None)
    rows = list(csv.DictReader(io.StringIO(CSV.decode())))
    assert accepted(rows, npi_check="strict") == claim


def test_nothing_of_a_claim_is_in_its_repr() -> None:
    claim = accepted([line(subscriber_id=MARK)])
    assert MARK not in repr(claim) + repr(claim.lines) + str(claim.lines[0])


@pytest.mark.parametrize(("check", "expected"), [("off", []), ("warn", [(1, "provider_npi", "npi_check_digit")])])
def test_a_check_digit_is_a_warning_unless_it_is_not_looked_at(check: str, expected: list[Any]) -> None:
    claim = accepted([line(provider_npi="1497775540")], npi_check=check)
    assert [(note.line, note.field, note.rule) for note in claim.warnings] == expected


def test_a_check_digit_is_a_fault_when_strict() -> None:
    assert faults([line(provider_npi="1497775540")], npi_check="strict") == [(1, "provider_npi", "npi_check_digit")]


def test_an_unknown_quadrant_is_kept_and_warned_about() -> None:
    claim = accepted([line(quadrant="upper right"), line(quadrant="ul"), line(quadrant=" "), line(quadrant="10")])
    assert [one.quadrant for one in claim.lines] == ["UPPER RIGHT", "UL", None, "10"]
    assert [(note.line, note.rule) for note in claim.warnings] == [(1, "quadrant")]


@pytest.mark.parametrize("absent", [None, "", " ", "\t \t"])
def test_blank_counts_as_absent(absent: Any) -> None:
    assert faults([line(**dict.fromkeys(FIELDS, absent))]) == [
        (1, field, "required") for field in FIELDS if field != "quadrant"
    ]


def test_blanks_around_a_value_are_dropped_but_line_breaks_are_not() -> None:
    assert accepted([line(group_id=" \tGRP 1\t ")]).lines[0].group_id == "GRP 1"
    assert faults([line(group_id="GRP\n")]) == [(1, "group_id", "characters")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"null", [(None, "lines", "type")]),
        (b"true", [(None, "lines", "type")]),
        (b'"lines"', [(None, "lines", "type")]),
        (b"12", [(None, "lines", "type")]),
        (b"[]", [(None, "lines", "min_lines")]),
        (b"{}", [(None, "lines", "required")]),
        (b'{"lines": null}', [(None, "lines", "required")]),
        (b'{"lines": []}', [(None, "lines", "min_lines")]),
        (b'{"lines": {}}', [(None, "lines", "type")]),
        (b'{"lines": "x", "id": 1, "extra": 2}', [(None, "id", "computed"), (None, "extra", "unknown_column"), (None, "lines", "type")]),
        (b"[1]", [(1, "line", "type")]),
        (b"[null]", [(1, "line", "type")]),
        (b'["PHI-MARKED-77"]', [(1, "line", "type")]),
        (b"[[]]", [(1, "line", "type")]),
    ],
)  # fmt: skip
def test_the_shape_of_a_claim_is_checked(body: bytes, expected: list[Any]) -> None:
    assert faults(body) == expected


@pytest.mark.parametrize("number", ["x" * 65, 7, True, [], {}, "a\nb", "\x00"])
def test_a_claim_number_is_text(number: Any) -> None:
    [(where, field, rule)] = faults({"claim_number": number, "lines": [line()]})
    assert (where, field) == (None, "claim_number")
    assert rule in {"length", "type", "characters"}


def test_a_claim_object_may_spell_its_members_freely() -> None:
    claim = accepted({"Claim Number": " C-1 ", "LINES": [line()]})
    assert claim.claim_number == "C-1"
    assert accepted({"claim_number": "", "lines": [line()]}).claim_number is None


def test_columns_that_are_not_ours_are_named() -> None:
    body = [line(id=1, net_fee=MARK, colour=MARK, **{"Provider NPI": MARK})]
    assert faults(body) == [
        (1, "id", "computed"),
        (1, "net_fee", "computed"),
        (1, "colour", "unknown_column"),
        (1, "Provider NPI", "duplicate_column"),
    ]


def test_a_key_that_occurs_twice_is_a_fault_beside_the_others() -> None:
    valid = json.dumps(line())[1:-1]
    body = f'[{{"npi": "{MARK}", "npi": 5, {valid}}}, {{{valid}, "quadrant": "UR"}}]'.encode()
    assert faults(body) == [
        (1, "npi", "duplicate_key"),
        (1, "provider_npi", "duplicate_column"),
        (1, "provider_npi", "npi"),
        (2, "quadrant", "duplicate_key"),
    ]
    assert faults(f'{{"lines": [{{{valid}}}], "lines": []}}'.encode()) == [(None, "lines", "duplicate_key")]
    assert faults(f'[{{{valid}, "x": {{"a": 1, "a": 2}}}}]'.encode()) == [(1, "x", "unknown_column")]


def test_exact_decimals_survive_the_way_of_duplicate_keys() -> None:
    valid = json.dumps(line())[1:-1].replace('"provider_fees": 100.0', '"provider_fees": 100.000')
    assert (1, "provider_fees", "decimals") in faults(f'[{{{valid}, "quadrant": null}}]'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[", b"[{]", b'[{"a":}]', b"[NaN]", b"[Infinity]", b"[-Infinity]", b"nul", b"[1,]", b"[01]", b"[1.]",
        b"[.5]", b"[+1]", b"'a'", b"[] []", b"[]x", b"\xff", b"[\"\xff\"]", b'["\\ud800"]', b'["\\x41"]', b'["a\nb"]', b"\x00",
        b"[{" * 8, b"[" + b"9" * 5000 + b"]", b"[1e99999999999999999999]", b"\xef\xbb\xbf",
        "[]".encode("utf-16"), b"// comment\n[]", b'[{"a": 1, "a": 2}', b"\xef\xbb\xbf\xef\xbb\xbf[]",
    ],
)  # fmt: skip
def test_what_is_not_json_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable, match="the body is not JSON"):
        parse("json", body, 10_000, "off")


def test_a_byte_order_mark_is_dropped() -> None:
    assert accepted(b"\xef\xbb\xbf" + json.dumps([line()]).encode()) == accepted([line()])
    assert accepted(b"\xef\xbb\xbf" + CSV, "csv") == accepted(CSV, "csv")


@pytest.mark.parametrize(
    "body", [b'a,"b\nc', b'"a"b,c\n1,2', b"\xff\xfe", CSV + b'\n"' + b"x" * 200_000, CSV.replace(b"UR", b"\xe9")]
)
def test_what_is_not_csv_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable, match=r"the body is not (CSV: line|UTF-8: byte) \d+"):
        parse("csv", body, 10_000, "off")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"\xef\xbb\xbf",
        f"2018-03-28,D0180,UR,{MARK},{MARK},1497775530,1,1,0,0\n".encode(),
        f"{MARK};{MARK}".encode(),
    ],
)
def test_a_csv_without_a_header_is_told_so_and_not_quoted(body: bytes) -> None:
    assert faults(body, "csv") == [(None, "header", "header")]


def test_a_header_that_is_hardly_recognised_is_not_quoted_either() -> None:
    found = faults(f"NPI,Sensitive Name\n1497775530,{MARK}\n".encode(), "csv")
    assert found[0] == (None, "header", "unknown_column")
    assert ("Sensitive" in str(found)) is False


def test_faults_of_a_header_come_once_and_before_those_of_the_lines() -> None:
    header, *rows = CSV.decode().splitlines()
    body = "\n".join(
        [f"{header},colour", *(f"{row},red" for row in rows[:2]), rows[2], rows[3].replace("178.00", "x", 1) + ",red"]
    )
    assert faults(body.encode(), "csv") == [
        (None, "colour", "unknown_column"),
        (3, "line", "cell_count"),
        (4, "provider_fees", "amount"),
    ]


def test_blank_rows_do_not_count_and_quoted_cells_may_hold_anything() -> None:
    header, *rows = CSV.decode().splitlines()
    body = "\r\n\r\n".join([header.replace("service date", '"Service\r\nDate"'), *rows, ""])
    assert accepted(body.encode(), "csv") == accepted(CSV, "csv")
    quoted = rows[0].replace("$100.00 ", '"$1,100.00 "', 1)
    assert str(accepted(f"{header}\n{quoted}".encode(), "csv").net_fee) == "1000.00"


def test_a_column_missing_from_the_header_is_missing_from_each_line() -> None:
    body = b"\n".join(row.split(b",", 1)[1] for row in CSV.splitlines())
    assert faults(body, "csv") == [(number, "service_dttm", "required") for number in range(1, 5)]


def test_too_many_lines_are_one_fault() -> None:
    assert faults([line()] * 4, max_lines=3) == [(None, "lines", "max_lines")]
    assert faults(CSV, "csv", max_lines=3) == [(None, "lines", "max_lines")]
    assert len(accepted(CSV, "csv").lines) == 4


def test_too_many_columns_are_one_fault() -> None:
    wide = {f"column{number}": 1 for number in range(201)}
    assert faults([line(), wide, line(provider_npi="x")]) == [(2, "line", "max_columns"), (3, "provider_npi", "npi")]
    assert faults({**wide, "lines": [line()]}) == [(None, "claim", "max_columns")]
    assert faults(b"," * 1_000_000, "csv") == [(None, "header", "max_columns")]
    pairs = ",".join(['"a":1'] * 100_000)
    assert faults(f"[{{{pairs}}}]".encode()) == [(1, "line", "max_columns")]


def test_faults_come_by_line_and_column_and_end_at_a_thousand() -> None:
    bad = line(service_dttm="x", submitted_proc="x", provider_npi="x", member_co_pay=-1)
    found = faults([bad] * 600)
    assert len(found) == FAULTS_SHOWN == 1000
    order = {field: position for position, field in enumerate(FIELDS)}
    assert found == sorted(found, key=lambda fault: (fault[0], order[fault[1]]))


spellings = st.fixed_dictionaries({field: st.sampled_from([field, *ALIASES[field]]) for field in FIELDS})
amounts = st.integers(0, 10**12 - 1)


@st.composite
def claims(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[int]]:
    """Lines under names of all spellings, and their net fees in cents."""
    lines, fees = [], []
    for _ in range(draw(st.integers(1, 4))):
        provider, allowed, co_ins, co_pay = (draw(amounts) for _ in range(4))
        money = dict(zip(FIELDS[6:], (provider, allowed, co_ins, co_pay), strict=True))
        plain = line(**{field: f"${cents // 100:,}.{cents % 100:02}" for field, cents in money.items()})
        names = draw(spellings)
        lines.append({names[field]: plain[field] for field in draw(st.permutations(FIELDS))})
        fees.append(provider + co_ins + co_pay - allowed)
    return lines, fees


@given(claims())
def test_valid_lines_in_any_spelling_give_exact_fees(claim: tuple[list[dict[str, Any]], list[int]]) -> None:
    lines, fees = claim
    parsed = accepted(lines)
    assert [one.net_fee for one in parsed.lines] == [Decimal(fee) / 100 for fee in fees]
    assert parsed.net_fee == Decimal(sum(fees)) / 100
    table = io.StringIO()
    writer = csv.DictWriter(table, lines[0].keys())
    writer.writeheader()
    writer.writerow(lines[0])
    assert accepted(table.getvalue().encode(), "csv").lines[0] == parsed.lines[0]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=300)
@given(
    st.binary()
    | anything.map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda text: text.encode("utf-8", "replace"))
)
def test_no_body_whatever_raises_anything_else(body: bytes) -> None:
    for kind in ("json", "csv"):
        with pytest.raises((Refused, Unreadable)):
            parse(kind, body, 10, "strict")


@settings(max_examples=300)
@given(st.fixed_dictionaries({field: st.just(line()[field]) | anything for field in FIELDS}))
def test_no_value_whatever_gets_past_its_rule(lines: dict[str, Any]) -> None:
    try:
        claim = parse("json", json.dumps([lines]).encode(), 10, "off")
    except (Refused, Unreadable):
        return
    one = claim.lines[0]
    assert one.net_fee == one.provider_fees + one.member_co_ins + one.member_co_pay - one.allowed_fees
    assert one.provider_npi.isascii() and one.provider_npi.isdigit() and len(one.provider_npi) == 10
    assert all(text.encode() and "\x00" not in text for text in (one.group_id, one.subscriber_id))
