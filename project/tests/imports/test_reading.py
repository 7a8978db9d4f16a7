"""Where a claim in a file begins and ends, and what is not one."""

import io
from pathlib import Path

import pytest

from project.errors import ServiceError
from project.imports import csv_claims, reading
from project.imports.csv_claims import LONGEST_ROW, read_header
from project.imports.reading import Found, Limits, Position
from project.tests.imports.importing import HEADER, claim, row

LIMITS = Limits(lines=100, text_bytes=2 * LONGEST_ROW)


def stream(text: str | bytes) -> io.BufferedReader:
    content = text if isinstance(text, bytes) else text.encode()
    return io.BufferedReader(io.BytesIO(content))


def of_csv(rows: str | bytes, limits: Limits = LIMITS) -> list[Found]:
    whole = HEADER.encode() + (rows if isinstance(rows, bytes) else rows.encode())
    source = stream(whole)
    header = read_header(Path("f"), source, 0)
    source.seek(header.end)
    found = list(csv_claims.csv_claims(source, header, Position(header.end, line=header.line), limits))
    # From wherever a claim ends, the rest is read as it was the first time.
    for done, one in enumerate(found[:8], 1):
        source = stream(whole)
        source.seek(one.offset)
        rest = Position(one.offset, done + 1, one.last + 1, one.in_doubt)
        assert list(csv_claims.csv_claims(source, header, rest, limits)) == found[done:]
    return found


def places(found: list[Found]) -> list[tuple[int, int, int]]:
    return [(one.first, one.last, one.status) for one in found]


def test_rows_of_one_number_are_a_claim_and_a_number_that_comes_back_is_another() -> None:
    found = of_csv(row("A") + row(" A ") + row("B") + row("A"))
    assert places(found) == [(2, 3, 0), (4, 4, 0), (5, 5, 0)]
    assert found[0].text.decode() == row("A") + row(" A ")


def test_line_breaks_in_quotes_blank_lines_and_every_kind_of_line_end_are_counted() -> None:
    quoted = row("A").replace("GRP-1000", '"GRP\n1000"')
    found = of_csv(quoted + "\n\n" + row("A") + row("B").replace("\n", "\r\n") + row("C").replace("\n", ""))
    assert places(found) == [(2, 6, 0), (7, 7, 0), (8, 8, 0)]
    assert [one.first for one in of_csv((row("A") + row("B")).replace("\n", "\r"))] == [2, 3]


@pytest.mark.parametrize(
    ("bad", "status", "rule"),
    [
        ('A,"D0180"x,\n', 400, "csv"),
        (row(""), 422, "required"),
        (row("C").replace(",,", ","), 422, "cell_count"),
        ("A,1\n", 422, "cell_count"),
        ("A," + "x" * LONGEST_ROW + "\n", 413, "max_bytes"),
    ],
)
def test_a_row_that_cannot_be_placed_spoils_both_claims_that_it_may_belong_to(bad: str, status: int, rule: str) -> None:
    found = of_csv(row("Z") + row("A") + bad + row("B") + row("B") + row("Y"))
    same = bad == "A,1\n"  # it has the number, so it is known whose row it is
    assert places(found) == [(2, 2, 0), (3, 4, status), (5, 6, 0 if same else 422), (7, 7, 0)]
    assert [(fault.line, fault.rule) for fault in found[1].faults] == [(2, rule)]
    assert same or found[2].faults[0].rule == "unplaced_row"


def test_a_row_that_is_not_csv_between_two_of_a_number_spoils_no_other_claim() -> None:
    assert places(of_csv(row("A") + 'A,"x"y\n' + row("A") + row("B"))) == [(2, 4, 400), (5, 5, 0)]


def test_quotes_that_never_end_are_told_and_do_not_fill_the_memory() -> None:
    rows = "".join(row(f"N{number}") for number in range(5000))
    found = of_csv(row("A") + '"open' + rows)
    assert found[0].status == 400
    assert max(len(one.text) for one in found) < 2 * 131_072
    assert found[-1][:2] == (5002, 5002)


def test_claims_that_are_too_large_have_no_text_and_one_fault() -> None:
    long = of_csv(row("A") * 101 + row("B"))
    assert places(long) == [(2, 102, 422), (103, 103, 0)]
    assert [fault.rule for fault in long[0].faults] == ["max_lines"]
    wide = of_csv(row("A") * 101 + row("B"), Limits(1000, 500))
    assert places(wide) == [(2, 102, 413), (103, 103, 0)]
    assert wide[0].text == b""


def test_rows_of_ndjson_are_claims_but_for_blank_ones() -> None:
    rows = claim("A") + b"\n \t\r\n" + claim("B").replace(b"\n", b"\r\n") + b"x" * 5000 + b"\n" + claim("C")[:-1]
    found = list(reading.ndjson_claims(stream(rows), Position(), Limits(10, 1000)))
    assert places(found) == [(1, 1, 0), (4, 4, 0), (5, 5, 413), (6, 6, 0)]
    assert found[1].text == claim("B").rstrip(b"\n")
    assert found[-1].offset == len(rows)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Claim #,claim number\n", "more than one column"),
        (HEADER.replace("service date", "colour"), "colour is not a column of a claim line; service_dttm is missing"),
        (HEADER.replace("quadrant", "npi"), "duplicate|means provider_npi"),
        ('Claim #,"service"date\n', "not CSV"),
        ("\n\n", "no header row"),
        ("Claim #," + "x," * 300 + "\n", "more than 200 columns"),
    ],
)
def test_a_header_that_no_claim_could_be_accepted_with_is_told_at_once(header: str, words: str) -> None:
    with pytest.raises(ServiceError, match=words):
        read_header(Path("f"), stream(header), 0)
