"""Web processes behind a real nginx are restarted, killed and migrated under load: what is lost, and what is not."""

import signal
from pathlib import Path

import pytest

from project import web
from project.tests.conftest import Run
from project.tests.load import stored_ids
from project.tests.service import Service
from project.tests.system.nginx import fronting, two_serving
from project.tests.system.traffic import Traffic

pytestmark = pytest.mark.system


def restart(service: Service) -> None:
    """As documented: SIGTERM, its end within the grace, another on the same port, ready."""
    assert service.stop() in (0, -signal.SIGTERM)
    service.start_again()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_restart_of_all_web_processes_fails_no_request(
    serve: Run, database_url: str, tmp_path: Path, processes: str
) -> None:
    with two_serving(serve, database_url, WEB_WORKERS=processes) as pair, fronting(tmp_path, pair.services) as nginx:
        with Traffic(nginx, pair.key).on() as traffic:
            for service in pair.services * 2:
                restart(service)
                traffic.await_more()
    assert traffic.failed == []
    assert set(traffic.accepted) == stored_ids(database_url)
    assert len(set(traffic.accepted)) == len(traffic.accepted)
