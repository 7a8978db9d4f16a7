"""Invariant I7: a subscriber id is in the tables and in its own claim's answers, and nowhere else, whatever happens.

The whole service runs as `make run` runs it, at log level debug. A marked subscriber id is posted in claims that are
accepted, refused, reversed, sent again and discarded, and while the database fails in every way that an operator has
seen; then it is looked for in everything that the service has said, kept or shown.
"""

import gzip
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from project.claims.columns import FIELDS
from project.engines.places import VALKEY_SOCKET, Places
from project.tests.phi import files_with, holds, relations_with
from project.tests.service import environment, free_port, line, wait_until
from project.tests.site import RUN, Site
from project.tests.supervision import Supervisor, processes_of, supervising

MARK = "MRKD77314711"
DASHED = "MRKD-77-31-47-11"  # no four digits in a row
NUMBER = "MRKN55443322"  # what a caller has taken for a claim number and for a key
MARKS = (MARK, DASHED, NUMBER)
REFUSED = "2222222222"
JSON, CSV = "application/json", "text/csv"
GOOD = [line(subscriber_id=MARK), line(subscriber_id=DASHED, provider_fees=101)]


def csv(*rows: dict[str, Any], header: str = ",".join(FIELDS)) -> str:
    cells = (",".join("" if row[field] is None else str(row[field]) for field in FIELDS) for row in rows)
    return "\n".join([header, *cells])


def bad_json() -> Iterator[Any]:
    """Documents that are JSON, and no claim."""
    for name in (MARK, DASHED):
        for wrong in ([name], {"id": name}, name * 10, f"{name}\n", f"{name}\0", f"\ud800{name}"):
            yield [line(subscriber_id=wrong)]
        for field in set(FIELDS) - {"subscriber_id", "group_id", "quadrant"}:
            yield [line(**{field: name})]
        for column in (name, f"{name} of subscriber", f"net_fee {name}", name * 20):
            yield [line(**{column: name})]
            yield {"lines": GOOD, column: name}
        for number in ([name], name * 10, f"{name}\x1b"):
            yield {"claim_number": number, "lines": GOOD}
        yield from (name, [name], [[name]], {name: name}, {"lines": name}, {"lines": [name]}, [{**line(), "id": name}])


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Bodies by media type, none of them a claim."""
    good = json.dumps(GOOD)
    twice = f'"subscriber_id": "{MARK}", "subscriber_id"'
    for document in bad_json():
        yield JSON, json.dumps(document).encode()
    for text in (good[:-20], good + MARK, f'[{{"subscriber_id": {MARK}}}]', good.replace('"subscriber_id"', twice)):
        yield JSON, text.encode()
    for text in (
        csv(*GOOD) + f'\n"{MARK}',
        csv(*GOOD) + f"\n{MARK},{DASHED}",
        csv(*GOOD).split("\n", 1)[1],  # no header, so that its first line stands for it
        csv(*GOOD, header=",".join([*FIELDS[:-1], DASHED])),
        csv(*GOOD, header=f"{DASHED},{MARK}"),
        csv(line(subscriber_id=MARK, provider_fees=DASHED)),
    ):
        yield CSV, text.encode()
    for kind, text in ((JSON, good), (CSV, csv(*GOOD))):
        for wrong in (b"\xff", b"\0"):
            yield kind, text.encode().replace(MARK.encode(), MARK.encode() + wrong)


BAD_HEADERS = (
    {"Content-Type": MARK},
    {"Content-Type": f"{JSON}; charset={MARK}"},
    {"Content-Encoding": MARK},
    {"Content-Encoding": "gzip"},
    {"Idempotency-Key": MARK * 40},
    {"Idempotency-Key": f'"{MARK}'},
)
ODD_HEADERS = {
    "X-Request-ID": f"{MARK} {DASHED}", "User-Agent": MARK, "Referer": f"/claims?{MARK}", "Cookie": f"a={MARK}",
    "Prefer": MARK, "Accept": MARK, "traceparent": f"00-{MARK}-{MARK}-01", "tracestate": f"a={MARK}",
    MARK: MARK,
}  # fmt: skip
BAD_PATHS = (
    f"/{MARK}", f"/claims/{MARK}", f"/claims/{MARK}/events", f"/dead-letters/{MARK}", f"/dead-letters/{DASHED}",
    f"/claims?{MARK}=1", f"/claims?{DASHED}=1", f"/claims?subscriber_id={MARK}", f"/claims?status={MARK}",
    f"/claims?cursor={MARK}", f"/claims?limit={MARK}", f"/claims?received_after={MARK}", f"/claims?provider_npi={MARK}",
    f"/dead-letters?state={MARK}", f"/dead-letters?{DASHED}=1", f"/top-provider?limit={MARK}",
)  # fmt: skip
NOT_HTTP = (
    f"GET / HTTP/1.1\r\nHost: {MARK}\r\nX-Forwarded-For: {MARK}\r\n\r\n",
    f"GET /{MARK} HTTP/9.9\r\n\r\n",
    f"{MARK} / HTTP/1.1\r\n\r\n",
    f"GET / HTTP/1.1\r\n{MARK}\0\r\n\r\n",
)

# What an operator may have put there, and what makes statements fail or wait while rows are in flight.
TROUBLE = """
ALTER TABLE claim_line ADD CONSTRAINT operators CHECK (group_id <> 'CHECKED') NOT VALID;
ALTER TABLE dead_letter ADD CONSTRAINT operators CHECK (line_count <> 3) NOT VALID;
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.group_id = 'RAISED' THEN
        RAISE EXCEPTION 'refused by a trigger' USING DETAIL = NEW::text, HINT = NEW.subscriber_id;
    END IF;
    IF NEW.group_id = 'SLOW' THEN PERFORM pg_sleep(30); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER trouble BEFORE INSERT ON claim_line FOR EACH ROW EXECUTE FUNCTION trouble()
"""
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


class Exposed(Site):
    """The service while claims are posted to it, and everything that it has said so far.

    `told`: answers and what commands printed; `own`: what the sender of a claim was told of it; `kept`: what can be
    seen from outside at the end, `in_flight` while a row is; `tables`: which relations hold which mark.
    """

    def __init__(self, supervisor: Supervisor, data_dir: Path, payments_port: int, metrics_port: int) -> None:
        super().__init__(supervisor, data_dir)
        self.payments_url = f"http://127.0.0.1:{payments_port}"
        self.worker_url = f"http://127.0.0.1:{metrics_port}"
        self.told: list[tuple[str, bytes]] = []
        self.own: list[bytes] = []
        self.kept: dict[str, bytes] = {}
        self.in_flight: dict[str, bytes] = {}
        self.tables: dict[str, set[str]] = {}

    def hears(self, what: str, answer: httpx2.Response) -> httpx2.Response:
        """Keeps an answer for the search."""
        self.told.append((what, repr(answer.headers.multi_items()).encode() + answer.content))
        return answer

    def asks(self, path: str, method: str = "GET") -> httpx2.Response:
        return self.hears(path, self.http.request(method, path))

    def posts(self, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        answer = self.http.post("/claims", content=content, headers={"Content-Type": kind, **(headers or {})})
        if answer.status_code != 201:
            return self.hears(f"{kind} {content[:60]!r}", answer)
        self.told.append(("headers of 201", repr(answer.headers.multi_items()).encode()))
        self.own.append(answer.content)
        return answer

    def runs(self, *words: str) -> None:
        """An operator's command."""
        settings = environment(self.places.data, PAYMENTS_URL=self.payments_url)
        done = subprocess.run([*RUN, *words], env=settings, capture_output=True, check=False)
        self.told.append((" ".join(words), done.stdout + done.stderr))

    def database_logged(self, words: str) -> Callable[[], bool]:
        return lambda: words in (self.places.logs / "postgres.log").read_text()

    def titles(self) -> bytes:
        """The command lines of all processes; Postgres writes what a session does into its own."""
        return b"\n".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(self.places.data))

    def sees_what_is_in_flight(self) -> None:
        self.in_flight = {
            "pg_stat_activity": repr(self.fetch("SELECT one::text FROM pg_stat_activity AS one")).encode(),
            "titles": self.titles(),
        }

    def sees_what_is_kept(self) -> None:
        self.kept = {
            "metrics of web": self.http.get("/metrics").content,
            "metrics of worker": httpx2.get(f"{self.worker_url}/metrics").content,
            "payments": httpx2.get(f"{self.payments_url}/payments").content,
            "redis": everything_in(self.places),
            "titles": self.titles(),
        }
        self.execute("ANALYZE")
        self.tables = {mark: relations_with(self.places.postgres_url, mark) for mark in MARKS}


def everything_in(places: Places) -> bytes:
    """All keys of Valkey with their values."""
    readers = {b"string": "GET {}", b"stream": "XRANGE {} - +", b"zset": "ZRANGE {} 0 -1", b"hash": "HGETALL {}"}
    with redis.Redis(unix_socket_path=str(places.sockets / VALKEY_SOCKET)) as client:
        kinds = {key.decode(): client.type(key) for key in client.scan_iter()}
        return repr(
            {key: client.execute_command(*readers[kind].format(key).split()) for key, kind in kinds.items()}
        ).encode()


def post_good_and_bad(site: Exposed) -> None:
    good = json.dumps(GOOD).encode()
    assert site.posts(JSON, good, ODD_HEADERS).status_code == 201
    assert site.posts(CSV, csv(*GOOD).encode()).status_code == 201
    assert site.posts(JSON, gzip.compress(good), {"Content-Encoding": "gzip"}).status_code == 201
    numbered = json.dumps({"claim_number": NUMBER, "lines": GOOD}).encode()
    for _ in range(2):
        assert site.posts(JSON, numbered, {"Idempotency-Key": NUMBER}).status_code == 201
    assert site.posts(JSON, good, {"Idempotency-Key": NUMBER}).status_code == 422
    assert site.posts(JSON, numbered).status_code == 409
    for kind, body in bad_bodies():
        answer = site.posts(kind, body)
        assert answer.status_code in (400, 422), (kind, body, answer.text)
    rows = b"\n".join([good, numbered, *(body for kind, body in bad_bodies() if kind == JSON)])
    batch = site.http.post("/claims/batch", content=rows, headers={"Content-Type": "application/x-ndjson"})
    assert site.hears("batch", batch).text.count('"status":201') == 1
    for headers in BAD_HEADERS:
        assert 400 <= site.posts(JSON, good, headers).status_code < 500, headers
    assert site.posts(JSON, gzip.compress(good)[:-9], {"Content-Encoding": "gzip"}).status_code == 400
    for path in BAD_PATHS:
        assert 400 <= site.asks(path).status_code < 500, path
    for bytes_ in NOT_HTTP:
        speak(site, bytes_.encode())
    speak(site, b"POST /claims HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\nContent-Length: 999\r\n\r\n" + good)


def speak(site: Exposed, request: bytes) -> None:
    """Bytes that no HTTP client sends, and what is answered; the sender leaves."""
    with socket.create_connection(("127.0.0.1", site.supervisor.port), 5) as peer:
        peer.sendall(request)
        peer.shutdown(socket.SHUT_WR)
        site.told.append((repr(request[:40]), peer.recv(65536)))


def reverse_and_send_again(site: Exposed) -> None:
    """Three dead letters: one is sent again in vain, one is given up, one stays."""
    httpx2.put(f"{site.payments_url}/behaviour", json={"refuse_npis": [REFUSED]})
    body = json.dumps([line(subscriber_id=MARK, provider_npi=REFUSED)]).encode()
    again, given_up, stays = [site.posts(JSON, body).json()["id"] for _ in range(3)]
    for claim in (again, given_up, stays):
        wait_until(lambda claim=claim: site.status_of(claim) == 410, "it is reversed")  # type: ignore[misc]
    letters = {one["claim_id"]: one["id"] for one in site.asks("/dead-letters").json()["items"]}
    for claim, change in ((again, "redrive"), (again, "redrive"), (given_up, "discard"), (given_up, "discard")):
        site.asks(f"/dead-letters/{letters[claim]}/{change}", "POST")
    wait_until(lambda: len(site.asks("/dead-letters?state=reversed").json()["items"]) == 2, "it is reversed again")
    for claim, letter in letters.items():
        for path in (f"/claims/{claim}", f"/claims/{claim}/events", f"/dead-letters/{letter}"):
            site.asks(path)
    for path in ("/claims", f"/claims?claim_number={MARK}", "/top-provider", "/hello", "/openapi.json"):
        site.asks(path)
    for words in (["dead-letters", "list"], ["dead-letters", "show", letters[stays], "--json"], ["doctor"]):
        site.runs(*words)


def fail_statements(site: Exposed) -> None:
    """Statements fail in the ledger and in the saga, with details that quote the row."""
    site.execute(TROUBLE)
    for group in ("CHECKED", "RAISED"):
        body = json.dumps([line(subscriber_id=MARK, group_id=group)]).encode()
        assert site.posts(JSON, body).status_code == 500
    site.posts(JSON, json.dumps([line(subscriber_id=MARK, provider_npi=REFUSED)] * 3).encode())
    site.supervisor.await_line("settle_failed")


def fail_the_database(site: Exposed) -> None:
    """Statements are cancelled, timed out, cut off and killed while a row is in flight; then Postgres restarts."""
    with posting_slow_claims(site):
        await_sleeping(site)
        site.sees_what_is_in_flight()
        site.fetch(f"SELECT pg_cancel_backend(pid) FROM ({SLEEPING}) AS sleeping")
        wait_until(site.database_logged("due to user request"), "it was cancelled")
        await_sleeping(site)
        site.execute("ALTER DATABASE claims SET statement_timeout = '200ms'")
        site.fetch(f"SELECT pg_terminate_backend(pid) FROM ({SLEEPING}) AS sleeping")
        wait_until(site.database_logged("due to statement timeout"), "it was timed out")
        site.execute("ALTER DATABASE claims RESET statement_timeout")
        [(backend,), *_] = await_sleeping(site)
        site.execute("CREATE OR REPLACE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        os.kill(backend, signal.SIGKILL)
        wait_until(site.database_logged("was terminated by signal 9"), "a backend was killed")
    os.kill(site.supervisor.pid_of("PostgreSQL"), signal.SIGINT)
    site.supervisor.await_line("Postgres started again")
    wait_until(lambda: site.http.get("/readyz").status_code == 200, "the database is back")


def await_sleeping(site: Exposed) -> Any:
    """Waits until a statement with a marked row is in flight."""
    return wait_until(lambda: site.fetch(SLEEPING), "a row is in flight")


@contextmanager
def posting_slow_claims(site: Exposed) -> Iterator[None]:
    """One slow claim after the other, whatever becomes of them."""
    done = threading.Event()
    body = json.dumps([line(subscriber_id=MARK, group_id="SLOW")]).encode()

    def post() -> None:
        while not done.is_set():
            site.posts(JSON, body)

    posting = threading.Thread(target=post)
    posting.start()
    try:
        yield
    finally:
        done.set()
        posting.join()


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    """After all of that; stopped, so that what is written at the end is there, too."""
    data_dir = tmp_path_factory.mktemp("phi") / "var"
    ports = {"PAYMENTS_PORT": free_port(), "METRICS_PORT": free_port()}
    settings = {"LOG_LEVEL": "debug", "WEB_WORKERS": "2"} | {name: str(port) for name, port in ports.items()}
    with supervising(data_dir, RUN, None, (), **settings) as supervisor:
        supervisor.await_line("serving")
        site = Exposed(supervisor, data_dir, ports["PAYMENTS_PORT"], ports["METRICS_PORT"])
        with site.http:
            post_good_and_bad(site)
            reverse_and_send_again(site)
            fail_statements(site)
            fail_the_database(site)
            site.sees_what_is_kept()
        supervisor.stop()
    yield site


def told(site: Exposed, *marks: str) -> list[str]:
    return [what for what, content in site.told for mark in marks if holds(content, mark)]


def test_what_is_looked_for_is_found_where_it_may_be(exposed: Exposed) -> None:
    assert all(holds(answer, mark) for answer in exposed.own[:5] for mark in (MARK, DASHED))
    assert exposed.tables[MARK] == {"claim_line", "dead_letter"}
    assert exposed.tables[DASHED] == {"claim_line"}
    assert exposed.tables[NUMBER] == {"claim", "claim_number", "idempotency_key"}
    assert files_with(MARK, exposed.places.postgres / "base")
    assert len(exposed.told) > 120


def test_no_answer_but_to_its_own_claim_names_a_subscriber(exposed: Exposed) -> None:
    assert told(exposed, MARK, DASHED) == []


def test_no_metric_event_listing_command_or_process_title_names_one(exposed: Exposed) -> None:
    assert [what for what, content in exposed.kept.items() for mark in MARKS if holds(content, mark)] == []
    assert b"claim.reversing" in exposed.kept["redis"]
    assert b"claims_refused_total" in exposed.kept["metrics of web"]
    assert b"claims_given_up_total" in exposed.kept["metrics of worker"]
    assert b"project.web" in exposed.kept["titles"]


def test_no_session_that_looks_at_others_sees_one(exposed: Exposed) -> None:
    assert b"claim_line" in exposed.in_flight["pg_stat_activity"]
    assert b"postgres: app claims" in exposed.in_flight["titles"]
    assert [what for what, content in exposed.in_flight.items() for mark in MARKS if holds(content, mark)] == []


def test_nothing_is_logged_at_debug_level_or_written_beside_the_tables(exposed: Exposed) -> None:
    places = exposed.places
    printed = "".join(exposed.supervisor.lines).encode()
    assert b'"event":"batch_rolled_back"' in printed
    assert b'"event":"settle_failed"' in printed
    assert exposed.database_logged('violates check constraint "operators"')()
    assert exposed.database_logged("refused by a trigger")()
    for mark in MARKS:
        assert not holds(printed, mark)
        rows_and_their_log = (places.postgres / "base", places.postgres / "pg_wal")
        assert files_with(mark, places.data, besides=rows_and_their_log) == []
    assert "claim.reversing" in "".join(file.read_text(errors="replace") for file in places.valkey.rglob("*.aof"))
