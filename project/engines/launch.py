"""How a process of ours is started: as which user, on which leash, and with which folders. Called by the engines.

Postgres refuses to run as root, so root gives it another user: in a user namespace where that works, else `nobody`
with the right to read past folder modes. Every process is told by the kernel when its parent dies (PDEATHSIG), so
that nothing outlives a supervisor that was killed; where `setpriv` is missing, `leash` does it with a pipe.
"""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from project.engines.places import Places
from project.errors import EngineError

NOBODY = 65534
PR_SET_PDEATHSIG = 1  # linux/prctl.h
BEHIND = 10  # a tenth of the weight of a process that has not stepped back (sched(7))


def leashed(argv: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """`argv` so started that it gets `death_signal` when the process that started it dies."""
    name = death_signal.name.removeprefix("SIG")
    if shutil.which("setpriv"):
        return ["setpriv", "--pdeathsig", name, "--", *argv]
    return [sys.executable, "-m", "project.engines.leash", name, *argv]


def follow_parent(parent: int) -> None:
    """Has this process get SIGTERM when its parent dies, or at once if it is dead already: for processes that a
    library started, off our leash.

    Linux only; elsewhere nothing happens, and such a process goes when its group is killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def step_back() -> None:
    """Leaves the processor to others who want it: for processes whose work can wait, beside one that answers clients
    (docs/decisions/0022-intake-first.md).

    Where Linux shares the processor out by sessions, each of ours being one, it is the session that steps back.
    """
    os.nice(BEHIND)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(BEHIND))


@cache
def unprivileged() -> tuple[str, ...]:
    """What goes before a command that must not run as root: nothing, if we are not."""
    if os.geteuid() != 0:
        return ()
    namespace = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
    if (
        shutil.which("unshare")
        and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    ):
        return namespace
    if not shutil.which("setpriv"):
        raise EngineError("Postgres does not run as root, and neither unshare nor setpriv is here: run as another user")
    group = pwd.getpwuid(NOBODY).pw_gid
    capabilities = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={group}", "--clear-groups", *capabilities, "--")


def prepare(places: Places) -> None:
    """Makes the folders, readable by their owner alone, and the short link if the sockets need one.

    Raises EngineError when the data belongs to someone else or cannot be written.
    """
    try:
        for folder in (places.data, places.run, places.logs, places.valkey):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(places.data)
        places.run.chmod(0o700)
        if places.sockets != places.run:
            _link(places)
    except OSError as error:
        raise EngineError(f"the data folder {places.data} cannot be used: {error.strerror}") from None


def _check_owner(folder: Path) -> None:
    owner = folder.stat().st_uid
    if owner not in (os.geteuid(), NOBODY if os.geteuid() == 0 else -1):
        raise EngineError(
            f"the data folder {folder} belongs to another user (uid {owner}); set DATA_DIR to one of yours"
        )


def _link(places: Places) -> None:
    """A short link to the sockets, in a folder that nobody else can have prepared for us."""
    link = places.short_link
    link.parent.mkdir(mode=0o700, exist_ok=True)
    found = link.parent.lstat()
    if link.parent.is_symlink() or found.st_uid != places.data.stat().st_uid or found.st_mode & 0o077:
        raise EngineError(f"{link.parent} is needed for short socket paths, but it is not safely ours; remove it")
    link.unlink(missing_ok=True)
    link.symlink_to(places.run)


def give_to_engine(folder: Path) -> None:
    """Makes `folder` belong to the user that an unprivileged engine runs as."""
    if os.geteuid() != 0:
        return
    owner = NOBODY if unprivileged()[0] == "setpriv" else 0
    if folder.stat().st_uid == owner:
        return
    os.chown(folder, owner, -1)
    for inside in folder.rglob("*"):
        os.lchown(inside, owner, -1)
