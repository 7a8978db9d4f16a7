"""Log lines: their form, and that docs/logs.md knows each of them."""

import ast
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from project.tests.conftest import Run
from project.tests.saga import Saga
from project.tests.service import ROOT, WEB, Service, environment, free_port, line, wait_until

LEVELS = ("debug", "info", "warning", "error", "critical")


def logged() -> Iterator[tuple[str, str | None]]:
    """Every event that our code logs, and its level where the call itself tells."""
    for file in (file for folder in ("project", "migrations") for file in (ROOT / folder).rglob("*.py")):
        if "tests" in file.relative_to(ROOT).parts:
            continue
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            match call.func:
                case ast.Attribute(ast.Name("_log"), attribute):
                    level: str | None = attribute
                case ast.Name("log"):
                    level = None
                case _:
                    continue
            for constant in ast.walk(call.args[0]):
                if isinstance(constant, ast.Constant):
                    yield str(constant.value), level


def documented() -> dict[str, str]:
    """The events of docs/logs.md, with what it says of their levels."""
    table = (ROOT / "docs" / "logs.md").read_text().partition("## Every event")[2]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.MULTILINE)
    return {event: levels for names, levels in rows for event in re.findall(r"`([^`]+)`", names)}


def test_every_event_is_documented_with_its_level_and_no_other() -> None:
    told = set(logged())
    assert {event for event, _ in told} == documented().keys()
    assert [(event, level) for event, level in told if level and level not in documented()[event]] == []


def test_a_line_says_when_who_and_what_first(service: Service) -> None:
    request_id = "night-shift-1"
    answer = service.http.post(
        "/claims", json=[line()], headers={"X-Request-ID": request_id, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    )
    row = wait_until(
        lambda: [told for told in service.log.read_text().splitlines() if request_id in told], "the request is logged"
    )[0]
    told = json.loads(row)
    assert list(told)[:5] == ["timestamp", "level", "process", "pid", "event"]
    assert (told["process"], told["level"], told["event"]) == ("web", "info", "request")
    assert (told["method"], told["route"], told["status"]) == ("POST", "/claims", 201)
    assert (told["claim"], told["client"]) == (answer.json()["id"], "local")
    assert (told["request_id"], told["trace_id"]) == (request_id, "a" * 32)


def test_reads_of_a_claim_name_it_and_those_of_none_do_not(service: Service) -> None:
    claim_id = service.accepted([line()])["id"]
    for path in (f"/claims/{claim_id}", f"/claims/{claim_id}/events", "/claims/no-such-claim"):
        service.http.get(path, headers={"X-Request-ID": "reads-of-it"})
    rows = wait_until(
        lambda: (
            lines
            if len(lines := [row for row in service.log.read_text().splitlines() if "reads-of-it" in row]) == 3
            else []
        ),
        "all three are logged",
    )
    assert [json.loads(row).get("claim") for row in rows] == [claim_id, claim_id, None]


def test_a_person_at_a_terminal_reads_text(tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(WEB, env=environment(tmp_path, PORT=str(free_port())), stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while b"environment" not in shown:  # of the line `started`
            shown += os.read(terminal, 4096)
    finally:
        process.terminate()
        process.wait(20)
        os.close(terminal)
    assert b"started" in shown
    assert b'{"' not in shown


@pytest.mark.parametrize(("level", "paid", "given_up"), [("debug", 1, 1), ("info", 0, 1), ("error", 0, 0)])
def test_the_level_is_a_setting(saga: Saga, serve: Run, level: str, paid: int, given_up: int) -> None:
    saga.payments.behave(refuse_npis=["2222222222"])
    worker = saga.worker(LOG_LEVEL=level)
    with serve(LOG_LEVEL=level) as service:
        claims = [service.accepted([line(provider_npi=npi)])["id"] for npi in ("1111111111", "2222222222")]
        wait_until(lambda: service.http.get(f"/claims/{claims[0]}").json().get("status") == "paid", "one is paid")
        wait_until(lambda: service.http.get(f"/claims/{claims[1]}").status_code == 410, "the other is gone")
        assert ('"event":"request"' in service.log.read_text()) is (level != "error")
    assert worker.stop() == 0
    assert len(saga.told("claim_paid")) == paid
    assert len(saga.told("payment_given_up")) == given_up
    rows = [json.loads(row) for row in worker.log.read_text().splitlines()]
    assert {row["process"] for row in rows} <= {"worker"}
    assert {LEVELS.index(row["level"]) >= LEVELS.index(level) for row in rows} <= {True}
