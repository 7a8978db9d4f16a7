"""Web processes behind a real nginx are restarted and killed under load: what fails, and what does not."""

from pathlib import Path

import httpx2
import pytest

from project.tests.conftest import Run
from project.tests.load import stored_ids
from project.tests.system.nginx import address_of, fronting, two_serving
from project.tests.system.traffic import Traffic, assert_nothing_failed, restart

pytestmark = pytest.mark.system


@pytest.mark.parametrize(("processes", "rounds"), [("1", 2), ("2", 1)])
def test_a_restart_of_all_web_processes_fails_no_request(
    serve: Run, database_url: str, tmp_path: Path, processes: str, rounds: int
) -> None:
    with (
        two_serving(serve, database_url, WEB_WORKERS=processes) as pair,
        fronting(tmp_path, pair.addresses) as nginx,
        Traffic(nginx, pair.key).on() as traffic,
    ):
        for service in pair.services * rounds:
            restart(service)
            traffic.await_more()
    assert_nothing_failed(traffic, database_url)


def test_of_a_killed_process_just_what_was_in_its_hands_fails_and_claims_say_that_their_outcome_is_unknown(
    serve: Run, database_url: str, tmp_path: Path
) -> None:
    with two_serving(serve, database_url) as pair, fronting(tmp_path, pair.addresses) as nginx:
        killed = pair.services[0]
        with Traffic(nginx, pair.key, posting=6).on() as traffic:
            killed.kill()
            traffic.await_more(300)
            killed.start_again()
            traffic.await_more(300)
        failed = [row for row in nginx.log() if row["status"] not in (200, 201) or row["completed"] != "OK"]
    assert {row["upstream_addr"] for row in failed} <= {address_of(killed)}  # handed to it, and not to be asked twice
    assert len(traffic.failed) == len(failed)
    # The kernel closes a dead process' sockets one after the other: a client may meet it a second time.
    assert len(failed) <= 2 * 6
    for failure in traffic.failed:
        if isinstance(failure, httpx2.RemoteProtocolError):  # it died between the head and the body of an answer
            continue
        assert isinstance(failure, httpx2.Response), failure
        assert (failure.request.method, failure.status_code) == ("POST", 502)
        assert failure.headers["content-type"] == "application/problem+json"
        assert failure.json()["type"] == "/problems/outcome-unknown"
    stored = stored_ids(database_url)
    assert set(traffic.accepted) <= stored
    assert len(stored) - len(traffic.accepted) <= len(failed)
