"""GET /claims: filters, pages, and what a traversal promises."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from project.tests.conftest import Run
from project.tests.service import Service, line, running


def listed(service: Service, **query: Any) -> list[dict[str, Any]]:
    """All claims of a listing, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = service.http.get("/claims", params={**query, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def ids(claims: list[dict[str, Any]]) -> list[str]:
    return [claim["id"] for claim in claims]


def test_claims_come_newest_first_without_lines_and_warnings(service: Service) -> None:
    made = [service.accepted([line(provider_fees=100 + number)])["id"] for number in range(3)]
    first_page = service.http.get("/claims", params={"limit": 3}).json()["items"]
    assert ids(first_page) == made[::-1]
    assert set(first_page[0]) == {"id", "claim_number", "net_fee", "status", "received_at"}
    assert first_page[0]["net_fee"] == 2.00


@pytest.mark.parametrize("limit", [1, 2, 7, 200])
def test_pages_of_any_size_give_each_claim_once(service: Service, limit: int) -> None:
    npi = f"{uuid4().int % 10**10:010d}"
    made = [service.accepted([line(provider_npi=npi)] * 3)["id"] for _ in range(7)]
    assert ids(listed(service, provider_npi=npi, limit=limit)) == made[::-1]


def test_the_last_page_has_no_cursor_even_if_it_is_full(service: Service) -> None:
    npi = f"{uuid4().int % 10**10:010d}"
    for _ in range(4):
        service.accepted([line(provider_npi=npi)])
    page = service.http.get("/claims", params={"provider_npi": npi, "limit": 4}).json()
    assert (len(page["items"]), page["next_cursor"]) == (4, None)
    assert service.http.get("/claims", params={"provider_npi": npi, "limit": 3}).json()["next_cursor"]


def test_filters_narrow_together(service: Service) -> None:
    npi, number = f"{uuid4().int % 10**10:010d}", str(uuid4())
    numbered = service.accepted({"claim_number": number, "lines": [line(), line(provider_npi=npi)]})["id"]
    other = service.accepted([line(provider_npi=npi)])["id"]
    assert ids(listed(service, provider_npi=npi)) == [other, numbered]
    assert ids(listed(service, claim_number=number)) == [numbered]
    assert ids(listed(service, provider_npi=npi, claim_number=number, status="accepted")) == [numbered]
    assert listed(service, provider_npi=npi, status="paid") == []
    assert listed(service, claim_number=f"{number}x") == []


def test_times_are_from_inclusive_and_to_exclusive(service: Service) -> None:
    claim = service.accepted([line()])
    received = datetime.fromisoformat(claim["received_at"])
    moment, later = received.isoformat(), (received + timedelta(milliseconds=1)).isoformat()
    assert claim["id"] in ids(listed(service, received_after=moment, received_before=later))
    assert claim["id"] not in ids(listed(service, received_before=moment))
    assert claim["id"] not in ids(listed(service, received_after=later))
    finer = (received + timedelta(microseconds=1)).isoformat()
    assert claim["id"] not in ids(listed(service, received_after=finer))
    assert claim["id"] in ids(listed(service, received_before=finer))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"status": "gone"}, "status"),
        ({"provider_npi": "123"}, "provider_npi"),
        ({"provider_npi": "１２３４５６７８９０"}, "provider_npi"),
        ({"provider_npi": "1234567890\n"}, "provider_npi"),
        ({"claim_number": ""}, "claim_number"),
        ({"claim_number": "a\0b"}, "claim_number"),
        ({"claim_number": "x" * 65}, "claim_number"),
        ({"received_after": "yesterday"}, "received_after"),
        ({"received_after": "1700000000"}, "received_after"),
        ({"received_after": "1e400"}, "received_after"),
        ({"received_after": "2026-11-23T10:00:00"}, "received_after"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"cursor": "%%%"}, "cursor"),
        ({"cursor": "x" * 65}, "cursor"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_query_is_422_and_names_the_parameter(service: Service, query: dict[str, str], field: str) -> None:
    answer = service.http.get("/claims", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1970-01-01T00:00:00Z"])
def test_the_ends_of_time_are_fine(service: Service, moment: str) -> None:
    for parameter in ("received_after", "received_before"):
        assert service.http.get("/claims", params={parameter: moment}).status_code == 200


@contextmanager
def with_clock(folder: Path, seconds: int, **settings: str) -> Iterator[Service]:
    """A web service whose machine's clock is wrong by so many seconds."""
    program = (
        "import runpy, time; right = time.time_ns; "
        f"time.time_ns = lambda: right() + {seconds} * 10**9; runpy.run_module('project.web', run_name='__main__')"
    )
    with running(folder, settings, argv=[sys.executable, "-c", program]) as started:
        yield started


def test_a_traversal_meets_every_claim_of_its_start_once_though_clocks_differ(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    with with_clock(tmp_path / "a", 0, **urls) as right, with_clock(tmp_path / "b", -2, **urls) as behind:
        before = [right.accepted([line()]), behind.accepted([line()])]
        apart = datetime.fromisoformat(before[0]["received_at"]) - datetime.fromisoformat(before[1]["received_at"])
        assert apart > timedelta(seconds=1.5)
        for _ in range(30):
            before += [right.accepted([line()]), behind.accepted([line()])]
        met: list[str] = []
        cursor: str | None = ""
        with ThreadPoolExecutor(1) as pool:
            while cursor is not None:
                page = right.http.get("/claims", params={"limit": 7} | ({"cursor": cursor} if cursor else {})).json()
                met += ids(page["items"])
                cursor = page["next_cursor"]
                pool.submit(behind.accepted, [line()]).result()  # falls in the middle of what is left
                right.accepted([line()])
        assert {claim["id"] for claim in before} <= set(met)
        assert len(met) == len(set(met))


def test_a_listing_shows_what_any_process_has_accepted(serve: Run) -> None:
    with serve() as one, serve() as other:
        claim = one.accepted([line()])
        assert ids(listed(other)) == [claim["id"]]
        assert other.http.get(f"/claims/{claim['id']}").json() == claim
