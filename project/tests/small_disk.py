"""A small disk of its own for a test: a tmpfs in a mount namespace that only what is started in it can see.

Root needs no more for it than the right to mount; everybody else a user namespace. Where neither is granted, as in
many containers, the test is skipped.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

# How the namespace is made, how it is entered, and what must work in it, since Postgres does not run as root.
_WAYS = (
    (("unshare", "--mount"), ("--mount",), "true"),
    (
        ("unshare", "--user", "--map-root-user", "--mount"),
        ("--user", "--preserve-credentials", "--mount"),
        "unshare --user --map-user=65534 --map-group=65534 true",
    ),
)


class SmallDisk:
    """Mounted at `folder` for processes whose words begin with `inside`."""

    def __init__(self, folder: Path, inside: Sequence[str]) -> None:
        self.folder = folder
        self.inside = inside

    def run(self, script: str, *arguments: str) -> None:
        """A shell script that sees the disk."""
        subprocess.run([*self.inside, "sh", "-euc", script, "sh", *arguments], check=True, capture_output=True)

    def take(self, folder: Path) -> None:
        """Moves a folder onto the disk; a link takes its place."""
        self.run('cp -a "$1" "$2" && rm -rf "$1" && ln -s "$2" "$1"', str(folder), str(self.folder / folder.name))

    def fill(self) -> None:
        """Not a byte is left."""
        self.run('cat /dev/zero > "$1" 2>/dev/null || true', str(self.folder / "ballast"))

    def free(self) -> None:
        """What `fill` has taken is given back."""
        self.run('rm "$1"', str(self.folder / "ballast"))


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """The disk, until the block ends; by then whatever uses it must have ended."""
    folder.mkdir(parents=True)
    for way, entering, check in _WAYS if shutil.which("unshare") and shutil.which("nsenter") else ():
        script = f'{check} && mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo mounted && exec cat >/dev/null'
        with subprocess.Popen(
            [*way, "sh", "-c", script, "sh", str(folder), str(mebibytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as holder:
            assert holder.stdin
            assert holder.stdout
            if holder.stdout.readline() == b"mounted\n":
                yield SmallDisk(folder, ("nsenter", f"--target={holder.pid}", *entering, "--"))
                return  # its input ends, and with it the last process of the namespace
    pytest.skip("a disk of its own needs the right to mount, or user namespaces")
