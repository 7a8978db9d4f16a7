"""The supervisor with real engines and real signals: it starts, keeps, recovers and stops everything."""

import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from project.engines.places import Places
from project.tests.service import free_port, wait_until
from project.tests.supervision import processes_of, supervising


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that a supervisor has made, with a key in its Valkey."""
    data_dir = tmp_path_factory.mktemp("made") / "var"
    with supervising(data_dir) as first:
        first.await_line("serving")
        with redis.Redis(unix_socket_path=str(Places(data_dir).sockets / "redis.sock")) as client:
            client.set("kept", "yes")
        assert first.stop() == 0
    return data_dir


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of it, so that a test need not make one."""
    return Path(shutil.copytree(made, tmp_path / "var", symlinks=True))


def gone(data_dir: Path) -> bool:
    return not processes_of(data_dir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_leaves_no_process(data_dir: Path, number: signal.Signals) -> None:
    with supervising(data_dir) as running:
        running.await_line("serving")
        assert len(processes_of(data_dir)) > 3
        assert running.stop(number) == 0
        assert processes_of(data_dir) == []


def test_a_signal_while_it_starts_stops_it_too(tmp_path: Path) -> None:
    with supervising(tmp_path / "var") as running:
        running.await_line("making a new database")
        assert running.stop(signal.SIGINT) == 0
        assert processes_of(tmp_path / "var") == []


def test_a_second_start_finds_the_data(data_dir: Path) -> None:
    with supervising(data_dir) as running:
        running.await_line("serving")
        assert running.said("making a new database") is None
        with redis.Redis(unix_socket_path=str(Places(data_dir).sockets / "redis.sock")) as client:
            assert client.get("kept") == b"yes"


def test_a_postgres_that_recovers_for_long_is_waited_for(data_dir: Path) -> None:
    (data_dir / "pg" / "recovery.signal").touch()
    with (data_dir / "pg" / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'sleep 1.5; false'\n")
    with supervising(data_dir, ENGINE_READY_WITHIN_S="2") as running:
        running.await_line("Postgres is recovering; this goes on when it is done")
        running.await_line("serving")


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with supervising(tmp_path / "var", port=port) as running:
            assert running.ended() == 1
            assert running.lines == [
                f"claim_process: port {port} of 127.0.0.1 is taken; child needs it: set PORT to another\n"
            ]


def test_a_folder_in_use_is_one_line_and_exit_code_1(data_dir: Path) -> None:
    with supervising(data_dir) as first:
        first.await_line("serving")
        with supervising(data_dir) as second:
            assert second.ended() == 1
            assert len(second.lines) == 1
            assert f"{data_dir} is in use by process {first.process.pid}" in second.lines[0]
        assert first.process.poll() is None


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with supervising(tmp_path / "var", DATA_DIR=str(tmp_path / "file" / "var")) as running:
        assert running.ended() == 1
        assert len(running.lines) == 1
        assert "cannot be used" in running.lines[0]


def test_a_child_that_dies_at_its_start_is_one_line_and_stops_the_rest(data_dir: Path) -> None:
    with supervising(data_dir, child=[sys.executable, "-c", "raise SystemExit(7)"]) as running:
        assert running.ended() == 1
        assert "child ended with exit code 7 at its start" in running.lines[-1]
        assert not any("Traceback" in line for line in running.lines)
        assert processes_of(data_dir) == []


def test_an_engine_that_cannot_start_says_why_in_one_line(data_dir: Path) -> None:
    (data_dir / "pg" / "PG_VERSION").write_text("9.6\n")
    with supervising(data_dir) as running:
        assert running.ended() == 1
        assert "Postgres ended with exit code 1 at its start" in running.lines[-1]
        assert processes_of(data_dir) == []


@pytest.mark.parametrize("name", ["PostgreSQL", "Valkey", "child"])
def test_what_dies_is_started_again(data_dir: Path, name: str) -> None:
    with supervising(data_dir) as running:
        running.await_line("serving")
        os.kill(running.pid_of(name), signal.SIGKILL)
        again = name.replace("PostgreSQL", "Postgres")
        running.await_line(f"{again} ended with signal SIGKILL; it is started again in 0.2 s")
        running.await_line(f"{again} started again")
        if name == "PostgreSQL":
            ready = Places(data_dir).postgres / "postmaster.pid"
            wait_until(lambda: ready.exists() and "ready" in ready.read_text(), "Postgres is ready again")
        assert running.process.poll() is None


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_recovers(data_dir: Path) -> None:
    with supervising(data_dir) as killed:
        killed.await_line("serving")
        killed.process.kill()
        killed.ended()
        with supervising(data_dir) as successor:  # at once, while the engines of the killed one are still going
            successor.await_line("serving")
    wait_until(lambda: gone(data_dir), "no process is left")


def test_it_recovers_from_everything_killed_at_once(data_dir: Path) -> None:
    with supervising(data_dir) as killed:
        killed.await_line("serving")
        for pid in [killed.process.pid, *processes_of(data_dir)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.ended()
    wait_until(lambda: gone(data_dir), "no process is left")
    (data_dir / "pg" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir / 'pg'}\n")  # a pid that is reused
    with supervising(data_dir) as successor:
        successor.await_line("serving")


def test_two_run_at_once(data_dir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data_dir, tmp_path / "other", symlinks=True))
    with supervising(data_dir) as first, supervising(other) as second:
        first.await_line("serving")
        second.await_line("serving")


@pytest.mark.parametrize("name", ["x" * 150, "with blanks & signs", "vär"])
def test_any_path_will_do(made: Path, tmp_path: Path, name: str) -> None:
    data_dir = Path(shutil.copytree(made, tmp_path / name / "var", symlinks=True))
    with supervising(data_dir) as running:
        running.await_line("serving")
        assert running.stop() == 0


def test_a_relative_folder_is_taken_from_where_it_was_started(data_dir: Path) -> None:
    with supervising(data_dir, DATA_DIR="var") as running:
        running.await_line("serving")
        assert f"data in {data_dir}" in running.await_line("PostgreSQL")


def test_engines_given_by_url_are_not_started(data_dir: Path, database_url: str, redis_url: str) -> None:
    with supervising(data_dir, DATABASE_URL=database_url, REDIS_URL=redis_url) as running:
        running.await_line("serving")
        assert running.said("Postgres: yours") and running.said("Redis: yours")
        assert len(processes_of(data_dir)) <= 2


def test_an_unreachable_database_url_is_one_line(data_dir: Path, redis_url: str) -> None:
    url = f"postgresql://app@127.0.0.1:{free_port()}/claims"
    with supervising(data_dir, DATABASE_URL=url, REDIS_URL=redis_url) as running:
        assert running.ended() == 1
        assert "the database could not be migrated: cannot migrate: the database cannot be reached" in running.lines[-1]
        assert not any("Traceback" in line for line in running.lines)


def test_a_short_link_prepared_by_someone_else_is_refused(made: Path, tmp_path: Path) -> None:
    data_dir = Path(shutil.copytree(made, tmp_path / ("x" * 150) / "var", symlinks=True))
    link = Places(data_dir).short_link
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.parent.chmod(0o777)
    try:
        with supervising(data_dir) as running:
            assert running.ended() == 1
            assert "not safely ours" in running.lines[-1]
    finally:
        link.parent.chmod(0o700)
