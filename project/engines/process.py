"""A process that is kept alive: started, watched, started again, stopped. Called by `supervisor` and by the tests."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from project.engines.launch import leashed

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 10.0  # who lived this long starts with the first pause again


@dataclass(frozen=True)
class Program:
    """What to run: its words, the signal that stops it in order, and where its output goes (None: ours).

    `before` are words that change the user; the leash comes after them, since a change of user takes it off.
    """

    name: str
    argv: Sequence[str]
    before: Sequence[str] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    log: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()


class Kept:
    """One running program and when it may be started again."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE_S
        self.again_at: float | None = None

    @property
    def pid(self) -> int:
        """The process id, also after its end."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts the program in a session of its own, on the leash of this process. Call it in the main thread:
        the kernel takes the death of the starting thread for the parent's.
        """
        output: IO[bytes] | None = self.program.log.open("ab") if self.program.log else None
        try:
            self._process = subprocess.Popen(
                [*self.program.before, *leashed(self.program.argv, self.program.stop_signal)],
                env={**os.environ, **self.program.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=self.program.pass_fds,
            )
        finally:
            if output:
                output.close()
        self._started = time.monotonic()
        self.again_at = None

    def plan_restart(self) -> float:
        """After its end: sets when to start again and gives the pause until then, in seconds."""
        self.kill_rest()
        if time.monotonic() - self._started >= STEADY_AFTER_S:
            self._pause = FIRST_PAUSE_S
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE_S)
        self.again_at = time.monotonic() + pause
        return pause

    def ask_to_stop(self) -> None:
        """Sends the stop signal, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(self.program.stop_signal)

    def wait_stopped(self, within_s: float) -> None:
        """Waits for its end, kills it after `within_s` seconds, and whatever of its group is left."""
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.kill_rest()

    def kill_rest(self) -> None:
        """Ends what a dead program left behind in its process group (worker processes)."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
