"""What the figures were measured on: processors, memory, kernel, disk, versions. Used by measures and the report."""

import os
import platform
import resource
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from project.engines import postgres, valkey

LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic", "sqlmodel", "SQLAlchemy", "asyncpg",
             "msgspec", "redis", "aiohttp", "alembic")  # fmt: skip
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Seconds that the processors have been idle so far, taken by other machines, and used by children that have ended;
    or, of a difference, how many processors that was on average.
    """

    at: float
    idle: float
    stolen: float
    wrk: float

    @classmethod
    def now(cls) -> "Cores":
        """So far."""
        ticks = [int(field) / _TICKS for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.monotonic(), ticks[3] + ticks[4], ticks[7], children.ru_utime + children.ru_stime)

    def since(self, before: "Cores") -> "Cores":
        """On average since then."""
        passed = self.at - before.at
        return Cores(
            passed,
            (self.idle - before.idle) / passed,
            (self.stolen - before.stolen) / passed,
            (self.wrk - before.wrk) / passed,
        )


def taken_by_others(seconds: float) -> str:
    """How busy the machine is before anything of ours runs."""
    before = Cores.now()
    time.sleep(seconds)
    used = Cores.now().since(before)
    return f"{cores() - used.idle:.2f} of {cores()} cores busy before it began ({used.stolen:.2f} of them stolen)"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def flushes_a_second(folder: Path, seconds: float = 1.0) -> float:
    """How often this disk writes a page of 8 KiB and says that it is safe (fdatasync, as Postgres does)."""
    page, count = bytes(8192), 0
    file = folder / "flushed"
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR)
    try:
        os.write(descriptor, page)
        os.fsync(descriptor)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            os.pwrite(descriptor, page, 0)
            os.fdatasync(descriptor)
            count += 1
    finally:
        os.close(descriptor)
        file.unlink()
    return count / passed


def described(folder: Path) -> list[tuple[str, str]]:
    """Rows for the report."""
    return [
        ("processor", f"{_after('/proc/cpuinfo', 'model name')}, {cores()} cores, shared by all sides and wrk"),
        ("memory", f"{int(_after('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("disk", f"{_disk(folder)}, {flushes_a_second(folder):,.0f} flushes a second (8 KiB, fdatasync)"),
        ("Python", platform.python_version()),
        ("engines", f"{postgres.version()}, {_valkey()}, SQLite {sqlite3.sqlite_version} (stand-in)"),
        ("libraries", ", ".join(f"{name} {version(name)}" for name in LIBRARIES)),
        ("load", subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split(" [")[0]),
    ]


def _after(file: str, word: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(word):
            return line.split(":", 1)[1].strip()
    return "unknown"


def _disk(folder: Path) -> str:
    """Whether it turns, as the kernel believes, and its file system."""
    number = folder.stat().st_dev
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kind = max((mount for mount in mounts if str(folder).startswith(mount[1])), key=lambda mount: len(mount[1]))[2]
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    for place in (device, device.parent):
        if (turns := place / "queue" / "rotational").exists():
            believed = "turning" if turns.read_text().strip() == "1" else "solid state"
            return f"{place.name}, {kind}, {believed} as far as the kernel knows"
    return kind


def _valkey() -> str:
    told = subprocess.run([valkey.binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"Valkey {told.split('v=', 1)[-1].split()[0]}"
