"""The leash of systems without setpriv: the command goes with the process that started it."""

import signal
import subprocess
import sys
from pathlib import Path

from project.tests.service import ROOT, wait_until

LEASH = [sys.executable, "-m", "project.engines.leash", "TERM"]
TELL_PID_AND_WAIT = "import os, signal, sys; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def pid_in(file: Path) -> int:
    return int(wait_until(lambda: file.exists() and file.read_text(), "the command told its pid"))


def test_the_command_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    words = [*LEASH, sys.executable, "-c", TELL_PID_AND_WAIT, str(told)]
    starter = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({words!r})"], cwd=ROOT)
    pid = pid_in(told)
    starter.kill()
    starter.wait()
    wait_until(lambda: not lives(pid), "the command ended")


def test_signals_and_exit_codes_pass_through(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    leash = subprocess.Popen([*LEASH, sys.executable, "-c", TELL_PID_AND_WAIT, str(told)], cwd=ROOT)
    pid = pid_in(told)
    leash.send_signal(signal.SIGTERM)
    assert leash.wait(10) == 128 + signal.SIGTERM
    assert not lives(pid)
    assert subprocess.run([*LEASH, sys.executable, "-c", "raise SystemExit(3)"], cwd=ROOT, check=False).returncode == 3
