"""`make run` as a newcomer has it: everything on one command, and nothing left when it ends."""

import json
import os
import signal
import sys
from pathlib import Path

import httpx2

from project.tests.service import ROOT, line, wait_until
from project.tests.supervision import processes_of, supervising

CSV = (Path(__file__).parents[1] / "data" / "claim_1234.csv").read_bytes()
# The recipe itself, on the interpreter that runs the tests instead of a fresh .venv.
MAKE_RUN = ["make", "-C", str(ROOT), "-o", ".venv/for-run", "run", f"VENV={sys.executable}"]


def test_claims_survive_ctrl_c_and_the_next_start_shows_them(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with supervising(data_dir, argv=MAKE_RUN) as first:
        line = first.await_line("serving")
        url = f"http://127.0.0.1:{first.port}"
        assert f"API {url}  docs {url}/docs  metrics {url}/metrics" in line
        answer = httpx2.post(f"{url}/claims", content=CSV, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 201
        assert '"net_fee":116.85,"status":"accepted"' in answer.text
        claim = json.loads(answer.text)
        wait_until(lambda: httpx2.get(f"{url}/claims/{claim['id']}").json()["status"] == "paid", "the claim is paid")
        assert first.said("PAYMENTS_URL is not set: a stand-in pays, at http://127.0.0.1:")
        top = httpx2.get(f"{url}/top-provider")
        assert top.text == '[{"provider_npi":"1497775530","net_fee":116.85}]'
        os.killpg(first.process.pid, signal.SIGINT)  # as a terminal does
        first.ended()
        assert first.said("stopped")
        assert processes_of(data_dir) == []
    assert not any("Traceback" in said for said in first.lines)
    with supervising(data_dir, argv=MAKE_RUN, WEB_WORKERS="2") as second:
        second.await_line("serving")
        again = httpx2.get(f"http://127.0.0.1:{second.port}/claims/{claim['id']}")
        assert again.text == answer.text.replace('"accepted"', '"paid"')
        second.process.terminate()
        second.ended()
        assert processes_of(data_dir) == []


def test_nothing_is_logged_of_the_claims(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with supervising(data_dir, argv=MAKE_RUN, LOG_LEVEL="debug") as running:
        running.await_line("serving")
        marked = CSV.replace(b"3730189502", b"MARKED-4711")
        url = f"http://127.0.0.1:{running.port}/claims"
        assert httpx2.post(url, content=marked, headers={"Content-Type": "text/csv"}).status_code == 201
        assert httpx2.post(url, content=marked + b",,,", headers={"Content-Type": "text/csv"}).status_code == 422
        assert running.stop() in (0, 2, -signal.SIGTERM)
    logs = [file.read_text() for file in (data_dir / "logs").iterdir()]
    assert "MARKED" not in "".join([*running.lines, *logs])
    assert '"route":"/claims"' in "".join(running.lines)


def test_a_killed_worker_and_stand_in_are_back_within_a_second_and_ctrl_c_fails_no_call(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with supervising(data_dir, argv=MAKE_RUN) as running:
        running.await_line("serving")
        for name in ("worker", "payments stand-in"):
            os.kill(running.pid_of(f"{name} (process"), signal.SIGKILL)
            running.await_line(f"{name} ended with signal SIGKILL; it is started again in 0.2 s")
            running.await_line(f"{name} started again")
        url = f"http://127.0.0.1:{running.port}/claims"
        claims = [httpx2.post(url, json=[line(provider_fees=101)]).json()["id"] for _ in range(20)]
        for claim in claims:
            wait_until(lambda claim=claim: httpx2.get(f"{url}/{claim}").json()["status"] == "paid", "it is paid")  # type: ignore[misc]
        running.stop()
    worker_lines = "".join(running.lines)
    assert "payment_attempt_failed" not in worker_lines.split('"event":"stopping"')[-1]
    assert "Traceback" not in worker_lines


def test_a_payments_service_of_ones_own_needs_no_stand_in(tmp_path: Path) -> None:
    with supervising(tmp_path / "var", argv=MAKE_RUN, PAYMENTS_URL="http://127.0.0.1:9") as running:
        running.await_line("serving")
        assert running.said("payments: yours, at PAYMENTS_URL")
        assert not running.said("stand-in")
