"""API keys as they live: made, used, listed, expired, revoked, over several processes and without a restart."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from project.ids import rfc3339
from project.security import keys as form
from project.tests.conftest import Run
from project.tests.keys import bearing, keys, make_key, told
from project.tests.saga import Saga
from project.tests.service import Service, free_port, line, running, wait_until

IN_FORCE_WITHIN_S = 5.0
ALL = ("claims:write", "claims:read", "providers:read", "operate", "metrics:read")


def status(service: Service, key: str | None, path: str = "/claims") -> int:
    return service.http.get(path, headers=bearing(key) if key else {}).status_code


def test_the_first_key_closes_the_keyless_mode_and_the_last_revoked_does_not_reopen_it(
    serve: Run, database_url: str
) -> None:
    with serve(WEB_WORKERS="2") as one, serve() as other:
        assert [status(service, None) for service in (one, other)] == [200, 200]
        made = make_key(database_url, "clinic", "claims:read")
        for service in (one, other):
            await_status(service, None, 401)
            assert status(service, made["key"]) == 200
        assert told(database_url, "revoke", "clinic") == {"revoked": [made["id"]]}
        for service in (one, other):
            await_status(service, made["key"], 401)
            assert status(service, None) == 401
            assert service.http.get("/hello").status_code == 200


def await_status(service: Service, key: str | None, wanted: int) -> None:
    """Waits until all processes of a service answer so."""
    seen = f"{wanted} everywhere"
    wait_until(lambda: {status(service, key) for _ in range(6)} == {wanted}, seen, IN_FORCE_WITHIN_S)


def test_a_key_is_shown_once_and_stored_as_its_digest(database_url: str) -> None:
    made = told(database_url, "create", "clinic", "--scope", "operate,claims:write", "--scope", "claims:read")
    assert set(made) == {"id", "name", "key", "scopes"}
    assert made["scopes"] == ["claims:write", "claims:read", "operate"]
    assert form.id_of(made["key"].encode()) == UUID(made["id"])
    dump = "".join(str(row) for row in fetch(database_url, "SELECT to_jsonb(api_key)::text FROM api_key"))
    assert made["key"].split("_", 2)[2] not in dump
    assert form.digest(made["key"].encode()).hex() in dump
    listing = keys(database_url, "list").stdout + keys(database_url, "list", "--json").stdout
    assert made["id"] in listing
    assert made["key"] not in listing


def fetch(database_url: str, query: str) -> list[tuple[object, ...]]:
    async def ask() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(database_url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_keys_of_one_name_are_one_client_and_are_rotated_one_by_one(serve: Run, database_url: str) -> None:
    old = make_key(database_url, "clinic", "claims:write", "claims:read")
    new = make_key(database_url, "clinic", "claims:write", "claims:read")
    with serve() as service:
        claim = service.http.post("/claims", json=[line()], headers=bearing(old["key"])).json()
        assert status(service, new["key"], f"/claims/{claim['id']}") == 200
        told(database_url, "revoke", old["id"])
        wait_until(lambda: status(service, old["key"]) == 401, "the old one lets nobody in", IN_FORCE_WITHIN_S)
        assert status(service, new["key"], f"/claims/{claim['id']}") == 200
        [listed] = told(database_url, "list")["items"]
        assert listed["id"] == new["id"]
        assert [one["live"] for one in told(database_url, "list", "--all")["items"]] == [False, True]
        make_key(database_url, "clinic", "claims:read")
        assert len(told(database_url, "revoke", "clinic")["revoked"]) == 2


def test_clients_see_only_what_is_theirs_and_operators_all(serve: Run, database_url: str) -> None:
    mine, theirs = (make_key(database_url, name, "claims:write", "claims:read")["key"] for name in ("a", "b"))
    operator = make_key(database_url, "ops", "claims:read", "operate")["key"]
    body = {"claim_number": "N-1", "lines": [line()]}
    with serve() as service:
        posted = [
            service.http.post("/claims", json=body, headers={**bearing(key), "Idempotency-Key": "k"})
            for key in (mine, theirs)
        ]
        assert [answer.status_code for answer in posted] == [201, 201]
        assert len({answer.json()["id"] for answer in posted}) == 2  # same number, same key, two clients
        claim_id = posted[0].json()["id"]
        for path in (f"/claims/{claim_id}", f"/claims/{claim_id}/events"):
            assert [status(service, key, path) for key in (mine, theirs, operator)] == [200, 404, 200]
        for query in ("", "?claim_number=N-1", "?status=accepted", "?provider_npi=1497775530"):
            found = [
                {item["id"] for item in service.http.get(f"/claims{query}", headers=bearing(key)).json()["items"]}
                for key in (mine, theirs, operator)
            ]
            assert found[0] == {claim_id}
            assert found[1].isdisjoint(found[0])
            assert found[2] == found[0] | found[1]
        taken = service.http.post("/claims", json=body, headers=bearing(mine))
        assert taken.headers["location"] == f"/claims/{claim_id}"


def test_a_reversed_claim_is_gone_for_its_client_and_unknown_to_others(saga: Saga, serve: Run) -> None:
    mine = make_key(saga.database_url, "a", *ALL[:2])["key"]
    theirs = make_key(saga.database_url, "b", *ALL[:2])["key"]
    saga.payments.behave(refuse_rate=1)
    saga.worker()
    with serve() as service:
        claim = service.http.post("/claims", json=[line()], headers=bearing(mine)).json()
        path = f"/claims/{claim['id']}"
        wait_until(lambda: status(service, mine, path) == 410, "it is reversed")
        assert [status(service, theirs, path), status(service, theirs, f"{path}/events")] == [404, 404]


def test_a_key_expires_by_itself(serve: Run, database_url: str) -> None:
    soon = rfc3339(datetime.now(UTC) + timedelta(seconds=6))
    short = told(database_url, "create", "short", "--scope", "claims:read", "--expires", soon)
    with serve() as service:
        assert status(service, short["key"]) == 200
        wait_until(lambda: status(service, short["key"]) == 401, "it has expired", 6 + IN_FORCE_WITHIN_S)
        assert told(database_url, "list")["items"] == []
        assert [one["revoked_at"] for one in told(database_url, "list", "--all")["items"]] == [None]


def test_the_last_use_is_noted(serve: Run, database_url: str) -> None:
    made = make_key(database_url, "clinic", "claims:read")
    with serve() as service:
        assert told(database_url, "list")["items"][0]["last_used_at"] is None
        assert status(service, made["key"]) == 200
        wait_until(lambda: told(database_url, "list")["items"][0]["last_used_at"], "its use is noted")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic {key}"},
        {"Authorization": "{key}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer {key}x"},
        {"Authorization": "Bearer {key} {key}"},
        {"Authorization": "Bearer {key}", "X-API-Key": "{key}"},
        {"X-API-Key": "{id}"},
        {"X-API-Key": "cpk_{hex}_" + "A" * 43},
        {"X-API-Key": "CPK{rest}"},
        {"X-API-Key": "x" * 5000},
        {"Cookie": "key={key}"},
    ],
)
def test_what_is_not_just_one_live_key_is_401(keyed: tuple[Service, dict[str, str]], headers: dict[str, str]) -> None:
    service, made = keyed
    words = {**made, "hex": UUID(made["id"]).hex, "rest": made["key"][3:]}
    sent = {name: value.format(**words) for name, value in headers.items()}
    answer = service.http.get("/claims", headers=sent)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert made["key"] not in answer.text


@pytest.fixture(scope="module")
def keyed(service: Service) -> tuple[Service, dict[str, str]]:
    """The module's service with one key."""
    made = make_key(service.database_url, "clinic", *ALL)
    wait_until(lambda: status(service, None) == 401, "the keyless mode is over")
    return service, made


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(keyed: tuple[Service, dict[str, str]], scheme: str) -> None:
    service, made = keyed
    assert service.http.get("/claims", headers={"Authorization": f"{scheme} {made['key']}"}).status_code == 200
    assert service.http.get("/claims", headers={"X-API-Key": made["key"]}).status_code == 200


def test_no_key_and_no_part_of_one_is_logged(keyed: tuple[Service, dict[str, str]]) -> None:
    service, made = keyed
    for key in (made["key"], made["key"][:-1], "cpk_secret"):
        service.http.get("/claims", headers=bearing(key))
    told_lines = [json.loads(row) for row in service.log.read_text().splitlines() if row.startswith("{")]
    refused = [row for row in told_lines if row.get("refused") == "bad_key"]
    assert refused
    assert {row["peer"] for row in refused} == {"127.0.0.1"}
    assert {row.get("client") for row in told_lines if row.get("status") == 200 and row["route"] == "/claims"} >= {
        "clinic"
    }
    secret = made["key"].split("_", 2)[2]  # which may itself have a "_"
    assert secret[:20] not in service.log.read_text()
    shown = service.http.get("/metrics", headers=bearing(made["key"])).text
    assert 'access_refused_total{reason="bad_key"}' in shown
    assert secret[:20] not in shown


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["create", "x"], "--scope"),
        (["create", "x", "--scope", "claims:delete"], "no such scope: claims:delete"),
        (["create", "", "--scope", "operate"], "a name has"),
        (["create", "a b", "--scope", "operate"], "a name has"),
        (["create", "worker", "--scope", "operate"], "a name has"),
        (["create", str(uuid4()), "--scope", "operate"], "a name has"),
        (["create", "x", "--scope", "operate", "--expires", "tomorrow"], "RFC 3339"),
        (["create", "x", "--scope", "operate", "--expires", "2020-01-01T00:00:00Z"], "in the past"),
        (["revoke", "nobody"], "no key of this name or id"),
        (["revoke", str(uuid4())], "no key of this name or id"),
    ],
)
def test_a_wrong_command_says_why_and_makes_no_key(database_url: str, words: list[str], why: str) -> None:
    done = keys(database_url, *words)
    assert done.returncode != 0
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert fetch(database_url, "SELECT count(*) FROM api_key") == [(0,)]


def test_without_a_database_the_command_is_one_line() -> None:
    done = keys(f"postgresql://app@127.0.0.1:{free_port()}/claims", "list")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_limiter_counts_by_the_keys_name(serve: Run, database_url: str) -> None:
    one, same = (make_key(database_url, "dashboard", "providers:read")["key"] for _ in range(2))
    other = make_key(database_url, "other", "providers:read")["key"]
    with serve(TOP_PROVIDER_RATE_LIMIT="2/hour") as service:
        answers = [status(service, key, "/top-provider") for key in (one, same, one, same, other)]
        assert answers == [200, 200, 429, 429, 200]


def test_a_process_that_cannot_read_the_keys_lets_nobody_in_but_shows_its_metrics(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    made = make_key(database_url, "clinic", *ALL)
    with running(tmp_path, {"DATABASE_URL": database_url, "REDIS_URL": redis_url}) as service:
        assert status(service, made["key"]) == 200
        fetch(database_url, "ALTER TABLE api_key RENAME TO hidden")
        wait_until(lambda: status(service, made["key"]) == 503, "keys are not believed any more", IN_FORCE_WITHIN_S)
        answer = service.http.get("/claims", headers=bearing(made["key"]))
        assert (answer.json()["type"], "retry-after" in answer.headers) == ("/problems/database-away", True)
        shown = service.http.get("/metrics", headers=bearing(made["key"]))
        assert shown.status_code == 200
        assert 'access_refused_total{reason="keys_unknown"} 0.0' not in shown.text  # an alert looks at it
        assert status(service, None, "/metrics") == 401
        fetch(database_url, "ALTER TABLE hidden RENAME TO api_key")
        wait_until(lambda: status(service, made["key"]) == 200, "keys are read again", IN_FORCE_WITHIN_S)


def test_a_key_holds_for_its_own_digest_alone() -> None:
    key = form.new_key(uuid4()).encode()
    stored = form.digest(key)
    assert form.holds(stored, key)
    assert not form.holds(stored, key[:-1] + b"?")
    assert not form.holds(None, key)
    assert not form.holds(None, b"")
