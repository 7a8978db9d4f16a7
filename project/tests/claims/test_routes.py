"""POST /claims and the reads of one claim over real HTTP: forms, headers, answers, errors."""

import asyncio
import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from project.ids import new_id
from project.tests.service import Service, line, wait_until

CSV = (Path(__file__).parents[1] / "data" / "claim_1234.csv").read_bytes()
FEES = ["0.00", "0.00", "81.25", "35.60"]
EXAMPLE = [
    {"service_dttm": "2018-03-20 00:00:00", "submitted_proc": "D0180", "group_id": "GRP-1000",
     "subscriber_id": "3730189502", "provider_npi": "1497775540", "provider_fees": 100.00, "allowed_fees": 100.00,
     "member_co_ins": 10.00, "member_co_pay": 0.00, "quadrant": None}
]  # fmt: skip


def post(service: Service, body: bytes, media: str = "application/json", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/claims", content=body, headers={"Content-Type": media} | named)


def rows(service: Service, query: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(service.database_url)
        try:
            return int(await connection.fetchval(query))
        finally:
            await connection.close()

    return asyncio.run(count())


def as_problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem of an answer, which must be well formed (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"]
    return problem


def test_the_example_file_as_csv_has_the_net_fees_of_the_assignment(service: Service) -> None:
    answer = post(service, CSV, "text/csv")
    assert answer.status_code == 201
    assert '"net_fee":116.85,"status":"accepted"' in answer.text
    assert [line["net_fee"] for line in json.loads(answer.text, parse_float=str)["lines"]] == FEES
    assert answer.json()["warnings"] == []


def test_the_example_file_as_json_keyed_by_its_headers_is_the_same_claim(service: Service) -> None:
    import_lines = [dict(zip(HEADERS, cells, strict=True)) for cells in CELLS]
    answer = service.submit(import_lines)
    assert answer.status_code == 201
    assert [line["net_fee"] for line in json.loads(answer.text, parse_float=str)["lines"]] == FEES
    assert answer.json()["net_fee"] == 116.85


HEADERS = ["service date", "submitted procedure", "quadrant", "Plan/Group #", "Subscriber#", "Provider NPI",
           "provider fees", "Allowed fees", "member coinsurance", "member copay"]  # fmt: skip
CELLS = [row.split(",") for row in CSV.decode().splitlines()[1:]]


def test_the_example_of_the_contract_is_accepted_with_a_warning_for_its_npi(service: Service) -> None:
    answer = service.submit(EXAMPLE)
    assert answer.status_code == 201
    body = answer.json()
    assert [(note["line"], note["field"], note["rule"]) for note in body["warnings"]] == [
        (1, "provider_npi", "npi_check_digit")
    ]
    assert body["net_fee"] == 10.00
    assert answer.headers["location"] == f"/claims/{body['id']}"
    assert service.http.get(answer.headers["location"]).text == answer.text


def test_amounts_are_json_numbers_with_two_decimals(service: Service) -> None:
    answer = service.submit([line(provider_fees="9999999999.99", allowed_fees=0.1, member_co_ins="$1,234.5")])
    assert '"provider_fees":9999999999.99,"allowed_fees":0.10,"member_co_ins":1234.50' in answer.text
    assert '"net_fee":10000001234.39' in answer.text
    assert service.http.get(answer.headers["location"]).text == answer.text


def test_a_minimal_answer_leaves_the_lines_out(service: Service) -> None:
    answer = service.submit([line()], Prefer="respond-async, return=minimal; x=1")
    assert answer.headers["preference-applied"] == "return=minimal"
    assert set(answer.json()) == {"id", "claim_number", "net_fee", "status", "received_at", "warnings"}
    whole = service.submit([line()], Prefer="return=representation, return=minimal")
    assert "lines" in whole.json()
    assert "preference-applied" not in whole.headers


def test_every_fault_of_every_line_comes_at_once(service: Service) -> None:
    before = rows(service, "SELECT count(*) FROM claim")
    bad = [line(provider_npi="12", provider_fees=-1), line(), line(service_dttm="tomorrow", id=7)]
    problem = as_problem(service.submit({"claim_number": "x" * 65, "lines": bad}), 422)
    assert [(fault["line"], fault["field"], fault["rule"]) for fault in problem["errors"]] == [
        (None, "claim_number", "length"),
        (1, "provider_npi", "npi"),
        (1, "provider_fees", "minimum"),
        (3, "id", "computed"),
        (3, "service_dttm", "date"),
    ]
    assert all(fault["detail"] for fault in problem["errors"])
    assert rows(service, "SELECT count(*) FROM claim") == before


@pytest.mark.parametrize(
    "media", ["application/json; charset=utf-8", "APPLICATION/JSON", 'application/json;charset="UTF-8"']
)
def test_the_media_type_is_read_as_the_rfc_says(service: Service, media: str) -> None:
    assert post(service, json.dumps([line()]).encode(), media).status_code == 201


@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_another_media_type_is_415_and_tells_the_right_ones(service: Service, media: str) -> None:
    answer = post(service, json.dumps([line()]).encode(), media)
    as_problem(answer, 415)
    assert answer.headers["accept-post"] == "application/json, text/csv"


def test_gzip_is_unpacked_also_in_several_members(service: Service) -> None:
    body = json.dumps([line()]).encode()
    assert post(service, gzip.compress(body), Content_Encoding="gzip").status_code == 201
    assert (
        post(service, gzip.compress(body[:50]) + gzip.compress(body[50:]), Content_Encoding="GZIP").status_code == 201
    )


def test_a_broken_body_is_400(service: Service) -> None:
    packed = gzip.compress(json.dumps([line()]).encode())
    as_problem(post(service, packed[:-12], Content_Encoding="gzip"), 400)
    as_problem(post(service, b"not gzip", Content_Encoding="gzip"), 400)
    as_problem(post(service, zlib.compress(b"[]"), Content_Encoding="gzip"), 400)
    for body in (b"", b"{", b"[NaN]", b"\xff", b'["\\ud800"]', b"[" * 100_000):
        as_problem(post(service, body), 400)
    as_problem(post(service, b'a,"b\nc', "text/csv"), 400)


def test_a_gzip_of_very_many_members_is_400(service: Service) -> None:
    as_problem(post(service, gzip.compress(b" ") * 500_000, Content_Encoding="gzip"), 400)
    thousand = gzip.compress(b" ") * 999 + gzip.compress(json.dumps([line()]).encode())
    assert post(service, thousand, Content_Encoding="gzip").status_code == 201


def test_a_gzip_may_end_anywhere_in_a_piece(service: Service) -> None:
    body = json.dumps([line()] * 4000).encode()
    for level in (0, 1, 9):
        answer = post(service, gzip.compress(body, level), Content_Encoding="gzip", Prefer="return=minimal")
        assert answer.status_code == 201
    as_problem(post(service, b"", Content_Encoding="gzip"), 400)


def test_an_unknown_content_encoding_is_415(service: Service) -> None:
    answer = post(service, b"[]", Content_Encoding="br")
    as_problem(answer, 415)
    assert answer.headers["accept-encoding"] == "gzip"


def test_too_many_bytes_are_413_packed_or_not(service: Service) -> None:
    large = b" " * (16 * 1024 * 1024 + 1)
    as_problem(post(service, large), 413)
    as_problem(post(service, gzip.compress(large), Content_Encoding="gzip"), 413)
    in_chunks = service.http.post(
        "/claims", content=(large[:1_000_000] for _ in range(18)), headers={"Content-Type": "application/json"}
    )
    as_problem(in_chunks, 413)
    assert post(service, json.dumps([line()]).encode() + b" " * 1_000_000).status_code == 201


def test_too_many_lines_are_a_fault(service: Service) -> None:
    problem = as_problem(service.submit([line()] * 10_001), 422)
    assert [fault["rule"] for fault in problem["errors"]] == ["max_lines"]


def test_the_largest_claim_is_accepted(service: Service) -> None:
    body = service.accepted([line(provider_fees="9999999999.99", allowed_fees=0)] * 10_000)
    assert len(body["lines"]) == 10_000
    assert service.http.get(f"/claims/{body['id']}").text.count('"line_no"') == 10_000


def test_a_repeat_with_the_same_key_is_answered_with_the_same_claim(service: Service) -> None:
    key = str(uuid4())
    first = service.submit([line()], Idempotency_Key=key)
    again = service.submit([line()], Idempotency_Key=f'"{key}"')
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    as_problem(service.submit([line(), line()], Idempotency_Key=key), 422)


def test_a_refused_claim_does_not_use_up_its_key(service: Service) -> None:
    key = str(uuid4())
    as_problem(service.submit([line(provider_npi="1")], Idempotency_Key=key), 422)
    assert service.submit([line()], Idempotency_Key=key).status_code == 201


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "caf\u00e9", '"open', '"a"b"'])
def test_a_malformed_key_is_400(service: Service, key: str) -> None:
    answer = service.http.post("/claims", json=[line()], headers={b"Idempotency-Key": key.encode("latin-1")})
    as_problem(answer, 400)


def test_a_key_of_255_characters_is_well_formed(service: Service) -> None:
    assert service.submit([line()], Idempotency_Key=uuid4().hex * 7 + "x" * 31).status_code == 201


def test_a_claim_number_can_be_used_once(service: Service) -> None:
    number = str(uuid4())
    first = service.accepted({"claim_number": f" {number}\t", "lines": [line()]})
    assert first["claim_number"] == number
    answer = service.submit({"Claim Number": number, "lines": [line()]})
    as_problem(answer, 409)
    assert answer.headers["location"] == f"/claims/{first['id']}"


def test_one_number_many_times_at_once_makes_one_claim(service: Service) -> None:
    number = str(uuid4())
    with ThreadPoolExecutor(16) as pool:
        claim = {"claim_number": number, "lines": [line()]}
        answers = list(pool.map(lambda _: service.submit(claim), range(60)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 59


def test_a_claims_history_starts_with_its_acceptance(service: Service) -> None:
    claim = service.accepted([line(provider_fees=101)])
    items = service.http.get(f"/claims/{claim['id']}/events").json()["items"]
    assert [(item["seq"], item["type"], item["actor"], item["net_fee"]) for item in items] == [
        (1, "claim.accepted", "local", 1.00)
    ]
    assert set(items[0]) == {"seq", "type", "at", "actor", "net_fee", "detail"}


@pytest.mark.parametrize("path", ["/claims/{}", "/claims/{}/events"])
def test_an_unknown_claim_is_404_and_no_id_is_422(service: Service, path: str) -> None:
    as_problem(service.http.get(path.format(new_id())), 404)
    problem = as_problem(service.http.get(path.format("MARKED-42")), 422)
    assert "MARKED" not in json.dumps(problem)


def test_unknown_routes_and_methods_are_problems_too(service: Service) -> None:
    as_problem(service.http.get("/nowhere"), 404)
    answer = service.http.delete("/claims")
    as_problem(answer, 405)
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "POST"]
    as_problem(service.http.post("/top-provider"), 405)


def test_what_a_client_sent_is_in_no_answer_log_or_metric(service: Service) -> None:
    marked = "PHI-4711-MARKED"
    service.accepted([line(subscriber_id=marked)])
    refused = [
        json.dumps([line(subscriber_id=marked, provider_npi=marked, provider_fees=marked, quadrant=marked * 9)]),
        json.dumps([line(**{marked: marked})]),
        json.dumps([{"subscriber_id": marked, "subscriber id": marked}]),
        f'[{{"subscriber_id": "{marked}", ',
        json.dumps({"claim_number": marked * 9, "lines": marked}),
    ]
    for body in refused:
        answer = post(service, body.encode(), **{"X-Request-ID": f"{marked} {marked}"})
        assert answer.status_code in (400, 422)
        if f'"{marked}": ' not in body:  # a column's own name is named
            assert marked not in answer.text
    as_problem(post(service, f"{marked},D0180,{marked}\n1,2,3".encode(), "text/csv"), 422)
    assert marked not in post(service, f"{marked},D0180,{marked}\n1,2,3".encode(), "text/csv").text
    for path in (f"/claims?cursor={marked}", f"/claims?received_after={marked}", f"/claims/{marked}", f"/{marked}"):
        assert marked not in service.http.get(path).text
    assert marked not in service.http.get("/metrics").text
    assert marked not in service.log.read_text()


def test_the_answer_carries_the_clients_request_id_if_it_is_fit_to_log(service: Service) -> None:
    assert (
        service.http.get("/hello", headers={"X-Request-ID": "trace-1234.a_b"}).headers["x-request-id"]
        == "trace-1234.a_b"
    )
    made = service.http.get("/hello", headers={"X-Request-ID": "no blanks please"}).headers["x-request-id"]
    assert made != "no blanks please"
    wait_until(lambda: f'"request_id":"{made}"' in service.log.read_text(), "the request is logged")
