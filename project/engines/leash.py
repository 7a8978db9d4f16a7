"""`python -m project.engines.leash SIGNAL COMMAND...`: runs a command and ends it when our own parent dies.

Used by `launch` where the system has no setpriv (macOS). It asks for its parent's death ten times a second, since no
signal tells of it there, and passes signals on to the command.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

LOOK_EVERY_S = 0.1


def main(death_signal: str, argv: list[str]) -> int:
    """The command's exit code; 128 + n when signal n ended it."""
    parent = os.getppid()
    process = subprocess.Popen(argv)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while process.poll() is None:
        if os.getppid() != parent:
            process.send_signal(signal.Signals[f"SIG{death_signal}"])
            process.wait()
        time.sleep(LOOK_EVERY_S)
    code = process.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
