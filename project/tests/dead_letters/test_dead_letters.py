"""Dead letters as operators see and change them: over HTTP and on the command line."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from project import audit
from project.payments import statements
from project.payments.lane import lease
from project.payments.settling import GivenUp, Reversed, settle
from project.tests.conftest import Run
from project.tests.proxy import Proxy, proxied
from project.tests.rows import new_claim, store
from project.tests.service import Service, environment, line

Letter = dict[str, Any]


def reversed_claims(
    service: Service, count: int, reason: str = "refused", *, finish: bool = True, number: str | None = None
) -> list[str]:
    """Claims that payments did not pay, as the saga leaves them; the ids of their letters, oldest first."""

    async def live() -> list[str]:
        claims = [new_claim(line(provider_fees=181.25), line(quadrant="UR"), number=number) for _ in range(count)]
        await store(service.database_url, claims)
        connection = await asyncpg.connect(service.database_url)
        due = await lease(connection, statements.LEASE_DUE, 10_000)
        async with connection.transaction():
            await settle(connection, [GivenUp(one, reason, "insufficient_funds") for one in due])
        if finish:
            reversing = await lease(connection, statements.LEASE_REVERSING, 10_000)
            async with connection.transaction():
                await settle(connection, [Reversed(one) for one in reversing])
        ids = [claim.id for claim in claims]
        rows = await connection.fetch("SELECT id::text FROM dead_letter WHERE claim_id = ANY($1) ORDER BY id", ids)
        await connection.close()
        return [row[0] for row in rows]

    return asyncio.run(live())


def listed(service: Service, query: str = "") -> Letter:
    answer = service.http.get(f"/dead-letters?{query}")
    assert answer.status_code == 200, answer.text
    page: Letter = answer.json()
    return page


def command(service: Service, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    surroundings = environment(tmp_path, DATABASE_URL=service.database_url)
    argv = [sys.executable, "-m", "project", "dead-letters", *words]
    return subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False)


def test_letters_are_listed_newest_first_by_state_and_reason(service: Service) -> None:
    refused = reversed_claims(service, 3)
    exhausted = reversed_claims(service, 2, "exhausted", finish=False)
    everything = listed(service)["items"]
    assert [one["id"] for one in everything][:5] == [*reversed(exhausted), *reversed(refused)]
    newest = everything[0]
    assert newest | {"id": None, "claim_id": None, "created_at": None} == {
        "id": None, "claim_id": None, "redrive_no": 0, "reason": "exhausted", "detail": "insufficient_funds", "attempts": 1,
        "net_fee": 81.25, "line_count": 2, "state": "waiting", "created_at": None, "closed_at": None,
    }  # fmt: skip
    assert [one["id"] for one in listed(service, "state=waiting")["items"]] == exhausted[::-1]
    assert [one["id"] for one in listed(service, "reason=refused&state=reversed")["items"]][:3] == refused[::-1]


def test_a_traversal_meets_every_letter_once(service: Service) -> None:
    reversed_claims(service, 7)
    everything = [one["id"] for one in listed(service, "limit=200")["items"]]
    seen: list[str] = []
    cursor = ""
    while True:
        page = listed(service, f"limit=3{cursor}")
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == everything


@pytest.mark.parametrize(
    "query",
    ["state=lost", "reason=none", "limit=0", "limit=201", "cursor=x", "subscriber_id=1", "state=waiting&state=x"],
)
def test_a_bad_query_is_422(service: Service, query: str) -> None:
    answer = service.http.get(f"/dead-letters?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_one_letter_shows_its_claim_without_the_subscriber(service: Service) -> None:
    [letter_id] = reversed_claims(service, 1, number="N-show")
    answer = service.http.get(f"/dead-letters/{letter_id}")
    claim = answer.json()["claim"]
    assert claim["claim_number"] == "N-show"
    assert [one["line_no"] for one in claim["lines"]] == [1, 2]
    assert list(claim["lines"][0]) == [
        "line_no", "service_dttm", "submitted_proc", "quadrant", "group_id", "subscriber_id",
        "provider_npi", "provider_fees", "allowed_fees", "member_co_ins", "member_co_pay", "net_fee",
    ]  # fmt: skip
    assert '"provider_fees":181.25' in answer.text
    assert '"member_co_pay":0.00' in answer.text
    assert "3730189502" not in answer.text
    assert claim["lines"][0]["subscriber_id"] == "***"


def test_no_such_letter_is_404(service: Service) -> None:
    nobody = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"
    for method, path in (("GET", ""), ("POST", "/redrive"), ("POST", "/discard")):
        assert service.http.request(method, f"/dead-letters/{nobody}{path}").status_code == 404
    assert service.http.get("/dead-letters/x").status_code == 422


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_a_letter_that_waits_for_its_reversal_cannot_be_changed(service: Service, action: str) -> None:
    [letter_id] = reversed_claims(service, 1, finish=False)
    answer = service.http.post(f"/dead-letters/{letter_id}/{action}")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/letter-not-reversed")


def test_redriving_many_times_at_once_is_one_redrive(service: Service) -> None:
    [letter_id] = reversed_claims(service, 1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.http.post(f"/dead-letters/{letter_id}/redrive"), range(16)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 15
    letter = service.http.get(f"/dead-letters/{letter_id}").json()
    assert (letter["state"], letter["claim"]) == ("redriven", None)
    claim = service.http.get(f"/claims/{letter['claim_id']}").json()
    assert (claim["status"], claim["net_fee"], len(claim["lines"])) == ("accepted", 81.25, 2)
    events = service.http.get(f"/claims/{letter['claim_id']}/events").json()["items"]
    assert (events[-1]["type"], events[-1]["actor"]) == ("claim.redriven", "local")


def test_a_redrive_that_finds_its_number_taken_changes_nothing(service: Service) -> None:
    [letter_id] = reversed_claims(service, 1, number="N-taken")
    holder = service.accepted({"claim_number": "N-taken", "lines": [line()]})
    answer = service.http.post(f"/dead-letters/{letter_id}/redrive")
    assert (answer.status_code, answer.headers["location"]) == (409, f"/claims/{holder['id']}")
    assert service.http.get(f"/dead-letters/{letter_id}").json()["state"] == "reversed"


def test_a_discarded_claim_is_erased_and_its_record_stays(service: Service) -> None:
    [letter_id] = reversed_claims(service, 1)
    answer = service.http.post(f"/dead-letters/{letter_id}/discard")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["claim"], answer.json()["net_fee"]) == ("discarded", None, 81.25)
    claim_id = answer.json()["claim_id"]
    gone = service.http.get(f"/claims/{claim_id}")
    assert (gone.status_code, gone.json()["dead_letter"]) == (410, f"/dead-letters/{letter_id}")
    events = service.http.get(f"/claims/{claim_id}/events").json()["items"]
    assert events[-1]["type"] == "claim.discarded"
    for action in ("discard", "redrive"):
        assert service.http.post(f"/dead-letters/{letter_id}/{action}").status_code == 409


async def test_the_books_balance_after_redrives_and_discards(service: Service) -> None:
    connection = await asyncpg.connect(service.database_url)
    assert (await audit.books(connection)).difference == 0
    await connection.close()


def test_the_command_lists_and_shows(service: Service, tmp_path: Path) -> None:
    [letter_id] = reversed_claims(service, 1, "exhausted", number="N-cli")
    told = command(service, tmp_path, "list", "--reason", "exhausted", "--json")
    assert json.loads(told.stdout)["items"][0]["id"] == letter_id
    assert letter_id in command(service, tmp_path, "list", "--state", "reversed", "--limit", "1").stdout
    shown = json.loads(command(service, tmp_path, "show", letter_id, "--json").stdout)
    assert shown == service.http.get(f"/dead-letters/{letter_id}").json()
    words = command(service, tmp_path, "show", letter_id).stdout
    assert "insufficient_funds" in words
    assert "3730189502" not in words


def test_the_command_redrives_by_filter_after_a_dry_run(service: Service, tmp_path: Path) -> None:
    since = datetime.now(UTC).isoformat()
    letters = reversed_claims(service, 5, "exhausted")
    words = ("redrive", "--reason", "exhausted", "--since", since, "--rate", "100", "--json")
    dry = json.loads(command(service, tmp_path, *words, "--dry-run").stdout)
    assert sorted(dry["letters"]) == letters
    assert {one["state"] for one in listed(service, "limit=5")["items"]} == {"reversed"}
    done = command(service, tmp_path, *words)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"redriven": 5, "failed": {}})
    again = command(service, tmp_path, "redrive", *letters, "--json")
    assert again.returncode == 1
    assert list(json.loads(again.stdout)["failed"]) == letters
    claim_id = service.http.get(f"/dead-letters/{letters[0]}").json()["claim_id"]
    events = service.http.get(f"/claims/{claim_id}/events").json()["items"]
    assert events[-1]["actor"].startswith("cli:")


def test_the_command_discards_one(service: Service, tmp_path: Path) -> None:
    first, second = reversed_claims(service, 2)
    assert command(service, tmp_path, "discard", first).stdout == "1 discarded, 0 not\n"
    states = [service.http.get(f"/dead-letters/{one}").json()["state"] for one in (first, second)]
    assert states == ["discarded", "reversed"]


@pytest.mark.parametrize(
    "words",
    [
        ("redrive",),
        ("discard",),
        ("redrive", "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071", "--all"),
        ("list", "--since", "yesterday"),
        ("list", "--since", "2026-11-24T10:00:00"),
        ("show", "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(service: Service, tmp_path: Path, words: tuple[str, ...]) -> None:
    told = command(service, tmp_path, *words)
    assert told.returncode == 1
    assert told.stdout == ""
    assert len(told.stderr.splitlines()) == 1
    assert told.stderr.startswith("claim_process: ")


@pytest.mark.parametrize(
    "words", [("list", "--state", "lost"), ("redrive", "--reason", "none"), ("list", "--limit", "0")]
)
def test_a_word_that_does_not_exist_is_a_usage_error(service: Service, tmp_path: Path, words: tuple[str, ...]) -> None:
    told = command(service, tmp_path, *words)
    assert (told.returncode, told.stdout) == (2, "")
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "now"])
def test_a_time_beyond_the_calendar_is_one_line(service: Service, tmp_path: Path, since: str) -> None:
    argv = [sys.executable, "-m", "project", "announce", "--since", since]
    surroundings = environment(tmp_path, DATABASE_URL=service.database_url)
    told = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (1, "")
    assert len(told.stderr.splitlines()) == 1


def test_a_database_without_tables_is_one_line(empty_database_url: str, tmp_path: Path) -> None:
    for words in (["dead-letters", "list"], ["doctor"]):
        argv = [sys.executable, "-m", "project", *words]
        surroundings = environment(tmp_path, DATABASE_URL=empty_database_url)
        told = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False)
        assert told.returncode == 1
        assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_a_connection_that_dies_in_a_change_is_503(service: Service, serve: Run, action: str) -> None:
    [letter_id] = reversed_claims(service, 1)

    async def cut() -> None:
        async with proxied(service.database_url) as proxy:
            await asyncio.to_thread(change, proxy)

    def change(proxy: Proxy) -> None:
        with serve(DATABASE_URL=proxy.url) as through:
            proxy.drop_request(b"UPDATE dead_letter")
            answer = through.http.post(f"/dead-letters/{letter_id}/{action}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert proxy.cuts == 1
            assert "Traceback" not in through.log.read_text()

    asyncio.run(cut())
    assert service.http.get(f"/dead-letters/{letter_id}").json()["state"] == "reversed"


def test_a_database_that_is_away_is_one_line(service: Service, tmp_path: Path) -> None:
    surroundings = environment(tmp_path, DATABASE_URL="postgresql://app@127.0.0.1:9/claims")
    for words in (["dead-letters", "list"], ["doctor"], ["announce", "--since", "2026-11-24T10:00:00Z"]):
        argv = [sys.executable, "-m", "project", *words]
        told = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False)
        assert told.returncode == 1
        assert told.stderr.startswith("claim_process: the database cannot be reached")
        assert len(told.stderr.splitlines()) == 1
