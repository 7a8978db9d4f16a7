"""POST /claims/batch over real HTTP: every kind of row, keys, limits, and what happens when something goes away."""

import asyncio
import gzip
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from project.claims.batch_schemas import BatchRow
from project.claims.ledger import WAIT_S
from project.tests.conftest import Run
from project.tests.load import stored_ids
from project.tests.proxy import proxied_in_a_thread
from project.tests.service import Service, line, running, wait_until

NDJSON = {"Content-Type": "application/x-ndjson"}
KIBIBYTE = 1024
# 8 MB of answers that nobody reads are more than a connection holds, so what is behind them waits for its reader.
FIRST, WRONG, LAST = 200, 100, 300
LONG = b"\n".join(
    json.dumps(claim).encode()
    for claim in [[line(provider_fees=101)] * 5] * FIRST
    + [[{}] * 1000] * WRONG
    + [[line(provider_fees=102)] * 20] * LAST
)


def batch(*claims: Any) -> bytes:
    return b"\n".join(claim if isinstance(claim, bytes) else json.dumps(claim).encode() for claim in claims)


def post(service: Service, body: bytes, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/claims/batch", content=body, headers=NDJSON | named)


def rows_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The rows of an answer, which must be well formed and in order."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    assert answer.text.endswith("\n")
    rows = [json.loads(row) for row in answer.text.splitlines()]
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert BatchRow.model_validate(row, strict=True).model_fields_set == row.keys()  # none that is not documented
    return rows


def refused(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The problem of a batch that was refused as a whole."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def metric(service: Service, sample: str) -> float:
    rows = service.http.get("/metrics").text.splitlines()
    return float(next((row.rsplit(" ", 1)[1] for row in rows if row.startswith(f"{sample} ")), 0))


class Reader:
    """The rows of the long batch's answer, as far as they are read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._lines = lines

    def read(self, until: Callable[[dict[str, Any]], bool] = lambda _: False) -> None:
        """Up to the first row of which this is true, or to the end."""
        for told in self._lines:
            self.rows.append(json.loads(told))
            if until(self.rows[-1]):
                return
        assert [row["row"] for row in self.rows] == list(range(1, FIRST + WRONG + LAST + 1))

    def of(self, status: int) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] == status]


@contextmanager
def reading(service: Service, key: str | None = None) -> Iterator[Reader]:
    """The long batch is posted; its first row is read."""
    headers = NDJSON | ({"Idempotency-Key": key} if key else {})
    with service.http.stream("POST", "/claims/batch", content=LONG, headers=headers) as answer:
        reader = Reader(answer.iter_lines())
        reader.read(until=lambda row: True)
        yield reader


def test_each_row_is_answered_in_order_as_if_it_had_been_posted(service: Service) -> None:
    number = str(uuid4())
    marked = "PHI-4712-MARKED"
    before = stored_ids(service.database_url), metric(service, 'claims_refused_total{rule="npi"}')
    body = batch(
        [line(provider_fees="101.10")],
        {"claim_number": number, "lines": [line(), line(provider_fees=100.5)]},
        [line(provider_npi=marked), line(subscriber_id=marked, provider_npi=marked, provider_fees=marked)],
        b'[{"subscriber_id": "' + marked.encode() + b'", ',
        {"claim_number": number, "lines": [line()]},
        [line(provider_npi="1497775540", subscriber_id=marked)],
        b"7",
        b"\xff",
    )
    rows = rows_of(post(service, b"\xef\xbb\xbf \t\r\n" + body.replace(b"\n", b"\r\n\n \n")))
    assert [row["status"] for row in rows] == [201, 201, 422, 400, 409, 201, 422, 400]
    assert [set(rows[at]) for at in (0, 1, 2, 5)] == [
        {"row", "status", "id", "net_fee"},
        {"row", "status", "id", "net_fee"},
        {"row", "status", "errors"},
        {"row", "status", "id", "net_fee", "warnings"},
    ]
    assert [(fault["line"], fault["rule"]) for fault in rows[2]["errors"]] == [(1, "npi"), (2, "npi"), (2, "amount")]
    assert (rows[3]["type"], rows[3]["detail"][:19]) == ("/problems/unreadable", "the row is not JSON")
    assert (rows[4]["id"], rows[4]["location"]) == (rows[1]["id"], f"/claims/{rows[1]['id']}")
    assert [note["rule"] for note in rows[5]["warnings"]] == ["npi_check_digit"]
    assert stored_ids(service.database_url) - before[0] == {rows[at]["id"] for at in (0, 1, 5)}
    for row in (rows[0], rows[1], rows[5]):
        assert service.http.get(f"/claims/{row['id']}").json()["net_fee"] == row["net_fee"]
    assert metric(service, 'claims_refused_total{rule="npi"}') == before[1] + 1
    assert marked not in json.dumps(rows)
    wait_until(lambda: '"rows":8,"accepted":3' in service.log.read_text(), "the request is logged")
    assert marked not in service.log.read_text()


def test_amounts_leave_with_two_decimals(service: Service) -> None:
    answer = post(service, batch([line(provider_fees="9999999999.99", allowed_fees="0.10")]))
    assert answer.text.endswith('"net_fee":9999999999.89}\n')


def test_a_gzip_is_unpacked_and_another_encoding_type_or_method_is_told_so(service: Service) -> None:
    packed = gzip.compress(batch([line()], [line()]))
    assert len(rows_of(post(service, packed, Content_Encoding="gzip"))) == 2
    refused(post(service, packed[:-9], Content_Encoding="gzip"), 400)
    refused(post(service, packed, Content_Encoding="br"), 415)
    answer = post(service, batch([line()]), Content_Type="application/json")
    refused(answer, 415)
    assert answer.headers["accept-post"] == "application/x-ndjson"
    for method in ("GET", "DELETE"):
        answer = service.http.request(method, "/claims/batch")
        refused(answer, 405)
        assert answer.headers["allow"] == "POST"


def test_a_key_makes_each_row_safe_to_send_again(service: Service) -> None:
    key, number = str(uuid4()), str(uuid4())
    first = batch([line()], [line()], [line(provider_npi="1")], {"claim_number": number, "lines": [line()]}, [line()])
    once = rows_of(post(service, first, Idempotency_Key=key))
    assert [row["status"] for row in once] == [201, 201, 422, 201, 201]
    assert len({row["id"] for row in once if "id" in row}) == 4
    mended = batch(
        [line()], [line(), line()], [line()], {"claim_number": number, "lines": [line()]}, [line()], [line()]
    )
    again = rows_of(post(service, mended, Idempotency_Key=f'"{key}"'))
    assert [row["status"] for row in again] == [201, 422, 201, 201, 201, 201]
    assert [row.get("replayed") for row in again] == [True, None, None, True, True, None]
    assert again[1]["type"] == "/problems/idempotency-key-reused"
    for at in (0, 3, 4):
        assert again[at] == once[at] | {"replayed": True}
    alone = service.http.post(
        "/claims",
        content=batch([line()]),
        headers={"Content-Type": "application/json", "Idempotency-Key": f"{key}/6"},
    )
    assert (alone.json()["id"], alone.headers["idempotent-replayed"]) == (again[5]["id"], "true")


def test_the_same_batch_at_the_same_time_is_stored_once(service: Service) -> None:
    before = stored_ids(service.database_url)
    key = str(uuid4())
    body = batch(*[[line()]] * 300)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: rows_of(post(service, body, Idempotency_Key=key)), range(4)))
    assert {row["status"] for rows in answers for row in rows} == {201}
    assert all(len({rows[at]["id"] for rows in answers}) == 1 for at in range(300))
    assert sum("replayed" not in row for rows in answers for row in rows) == 300
    assert len(stored_ids(service.database_url) - before) == 300


@pytest.mark.parametrize(("key", "status"), [("x" * 249, 200), ("x" * 250, 400), ("caf\u00e9", 400)])
def test_the_longest_row_must_fit_behind_the_key(service: Service, key: str, status: int) -> None:
    headers = {b"Content-Type": b"application/x-ndjson", b"Idempotency-Key": key.encode("latin-1")}
    assert service.http.post("/claims/batch", content=batch([line()]), headers=headers).status_code == status


def test_a_batch_without_rows_or_with_too_many_is_refused_whole(service: Service) -> None:
    before = stored_ids(service.database_url)
    for body, rule in ((b"", "min_rows"), (b" \r\n\n\t", "min_rows"), (batch([line()], *[b"7"] * 10_000), "max_rows")):
        problem = refused(post(service, body), 422)
        assert [(fault["field"], fault["rule"]) for fault in problem["errors"]] == [("rows", rule)]
    assert stored_ids(service.database_url) == before
    assert Counter(row["status"] for row in rows_of(post(service, b"7\n" * 10_000))) == {422: 10_000}


def test_the_examples_of_the_document_are_accepted(service: Service) -> None:
    operation = service.http.get("/openapi.json").json()["paths"]["/claims/batch"]["post"]
    [content] = operation["requestBody"]["content"].values()
    assert {row["status"] for row in rows_of(post(service, content["example"].encode()))} == {201}
    answered = operation["responses"]["200"]["content"]["application/x-ndjson"]
    told = {name for row in answered["example"].splitlines() for name in json.loads(row)}
    assert told <= set(answered["schema"]["items"]["properties"])


def test_who_does_not_take_the_answer_gets_no_further_rows_stored(service: Service) -> None:
    before = len(stored_ids(service.database_url))
    with reading(service) as slow:
        assert len(rows_of(post(service, batch([line()])))) == 1  # others are served, after what was in the ledger
        assert before < len(stored_ids(service.database_url)) <= before + FIRST + 1
        slow.read()
    assert Counter(row["status"] for row in slow.rows) == {201: FIRST + LAST, 422: WRONG}


def test_who_leaves_gets_no_further_rows_stored_and_what_was_in_hand_is(service: Service) -> None:
    before = len(stored_ids(service.database_url))
    seen = service.log.read_text().count('"rows":600')
    with reading(service):
        pass
    wait_until(lambda: service.log.read_text().count('"rows":600') > seen, "the request has ended")
    service.accepted([line()])  # comes after what was in hand
    stored = len(stored_ids(service.database_url))
    assert before + 1 < stored <= before + 1 + FIRST
    service.accepted([line()])
    assert len(stored_ids(service.database_url)) == stored + 1
    assert "Traceback" not in service.log.read_text()


def test_single_claims_pass_a_batch_by(service: Service) -> None:
    body = batch(*[[line()] * 20] * 500)
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(lambda: rows_of(post(service, body)))
        waits = []
        while not many.done():
            waits.append(service.submit([line()]).elapsed.total_seconds())
    assert {row["status"] for row in many.result()} == {201}
    assert len(waits) > 1
    assert max(waits) < 2  # tenths of a second, on a machine with nothing else to do


def test_small_limits(serve: Run) -> None:
    """The queue is far smaller than the batch, a row is larger than a claim may be, and bodies are too large."""
    small = {"MAX_BODY_BYTES": "2048", "MAX_BATCH_BYTES": str(64 * KIBIBYTE), "INTAKE_QUEUE_LINES": "4"}
    with serve(**small) as service:
        body = batch([line()] * 3, b"[" + b" " * 2048 + b"]", *[[line()]] * 200)
        rows = rows_of(post(service, body))
        assert Counter(row["status"] for row in rows) == {201: 201, 413: 1}
        assert rows[1]["detail"] == "at most 2048 bytes"
        refused(post(service, b"\n" * (64 * KIBIBYTE + 1)), 413)
        refused(post(service, gzip.compress(b"\n" * (64 * KIBIBYTE + 1)), Content_Encoding="gzip"), 413)
        assert len(stored_ids(service.database_url)) == 201


def test_a_batch_that_is_stopped_and_killed_is_finished_by_repeats(serve: Run, database_url: str) -> None:
    with serve() as service:
        with reading(service, "night") as stopped:
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in service.log.read_text(), "it is told to stop")
            stopped.read()
        assert service.process.wait(20) == -signal.SIGTERM
        assert {row["status"] for row in stopped.rows[FIRST + WRONG :]} == {503}
        assert {row["type"] for row in stopped.of(503)} == {"/problems/overloaded"}
        assert {row["id"] for row in stopped.of(201)} == stored_ids(database_url)
        service.start_again()
        with reading(service, "night") as killed:
            killed.read(until=lambda row: row["status"] == 201 and "replayed" not in row)
            service.kill()
        assert [row["id"] for row in killed.of(201)[: len(stopped.of(201))]] == [row["id"] for row in stopped.of(201)]
        service.start_again()
        rows = rows_of(post(service, LONG, Idempotency_Key="night"))
    assert Counter(row["status"] for row in rows) == {201: FIRST + LAST, 422: WRONG}
    for earlier in (stopped, killed):
        assert all(rows[row["row"] - 1]["id"] == row["id"] for row in earlier.of(201))
    ids = {row["id"] for row in rows if row["status"] == 201}
    assert stored_ids(database_url) == ids
    assert len(ids) == FIRST + LAST


def test_the_answer_begins_before_the_first_row_is_stored(serve: Run, database_url: str) -> None:
    with serve() as service, asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database_url))
        runner.run(connection.execute("BEGIN; LOCK TABLE claim"))
        with service.http.stream("POST", "/claims/batch", content=batch([line()]), headers=NDJSON) as answer:
            assert answer.status_code == 200
            runner.run(connection.execute("ROLLBACK"))
            [row] = [json.loads(told) for told in answer.iter_lines()]
        runner.run(connection.close())
    assert stored_ids(database_url) == {row["id"]}


def test_a_database_that_goes_away_is_told_to_all_rows_at_once_and_a_repeat_stores_them(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        proxied_in_a_thread(database_url) as proxy,
        running(tmp_path / "web", {"DATABASE_URL": proxy.url, "REDIS_URL": redis_url}) as service,
    ):
        with reading(service, "k") as broken:
            proxy.drop_answer_of(b"COMMIT", and_refuse_connections=True)
            began = time.monotonic()
            broken.read()
        assert time.monotonic() - began < 2 * WAIT_S  # once, not for each slice
        assert {row["retry_after"] for row in broken.of(503)} == {2}
        unknown = {row["id"] for row in broken.of(503) if row["type"] == "/problems/outcome-unknown"}
        assert 0 < len(unknown) < len(broken.of(503))
        assert {row["type"] for row in broken.of(503) if "id" not in row} == {"/problems/database-away"}
        acknowledged = {row["id"] for row in broken.of(201)}
        assert acknowledged < stored_ids(database_url) <= acknowledged | unknown
        proxy.accept_connections()
        again = rows_of(post(service, LONG, Idempotency_Key="k"))
        assert Counter(row["status"] for row in again) == {201: FIRST + LAST, 422: WRONG}
        assert stored_ids(database_url) == {row["id"] for row in again if row["status"] == 201}
        assert "Traceback" not in service.log.read_text()
