"""A file that is to be imported: what is in it, its digest, and whether it stays as it is. Called by `run`."""

import gzip
import hashlib
import io
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from project.errors import ServiceError

Format = Literal["csv", "ndjson"]

_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"
_FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
BLOCK = 1024 * 1024

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a gzip file raises when it is cut off or not what it says."""


@dataclass(frozen=True)
class Origin:
    """A file as it was when it was opened. `path` is absolute; `size` is in bytes, on disk."""

    path: Path
    format: Format
    packed: bool
    size: int
    changed_ns: int
    digest: bytes


def opened(path: Path, wanted: Format | None) -> tuple[Origin, io.FileIO]:
    """The file, digested, and the handle by which it is read from now on. Raises ServiceError if it cannot be used."""
    try:
        handle = io.FileIO(path)
    except OSError as error:
        raise ServiceError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ServiceError(f"{path}: is not a plain file")
        if status.st_size == 0:
            raise ServiceError(f"{path}: is empty")
        packed = handle.read(2) == _GZIP
        kind = wanted or _FORMATS.get(_suffix(path)) or _format_of(path, handle, packed)
        origin = Origin(path.resolve(), kind, packed, status.st_size, status.st_mtime_ns, digest_of(handle))
    except BaseException:
        handle.close()
        raise
    return origin, handle


def _suffix(path: Path) -> str:
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def _format_of(path: Path, handle: io.FileIO, packed: bool) -> Format:
    """By the first character that is not blank: JSON begins with a bracket, and no name of a column does."""
    try:
        with unpacked(handle, packed) as stream:
            start = stream.read(4096)
    except DAMAGED:
        raise damaged(path) from None
    return "ndjson" if start.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") else "csv"


def unpacked(handle: io.FileIO, packed: bool) -> io.BufferedReader:
    """The bytes of the file, from its start. Only one such stream of a handle can be in use: they share its place."""
    handle.seek(0)
    # The handle is somebody else's to close; a stream that is forgotten must not do it.
    raw = gzip.GzipFile(fileobj=handle) if packed else io.FileIO(os.dup(handle.fileno()))
    return io.BufferedReader(raw, BLOCK)


def past_mark(path: Path, stream: io.BufferedReader) -> int:
    """Moves past a byte order mark, and answers where the text begins. Raises ServiceError for UTF-16."""
    start = stream.peek(3)[:3]
    if start[:2] in _UTF16:
        raise ServiceError(f"{path}: is UTF-16; save it as UTF-8")
    return len(stream.read(3)) if start == BOM else 0


def damaged(path: Path) -> ServiceError:
    """For a gzip file that cannot be read to its end."""
    return ServiceError(f"{path}: the gzip file is cut off or damaged; what was imported of it stays")


def digest_of(handle: io.FileIO) -> bytes:
    """SHA-256 of the file as it lies on disk."""
    handle.seek(0)
    return hashlib.file_digest(handle, "sha256").digest()


def has_changed(origin: Origin, handle: io.FileIO) -> bool:
    """Whether the file has other contents now than when it was opened; its name may have moved on to another file."""
    status = os.fstat(handle.fileno())
    if (status.st_size, status.st_mtime_ns) == (origin.size, origin.changed_ns):
        return False
    return digest_of(handle) != origin.digest
