"""The file of refused claims, next to that which is imported: what was wrong with each, and its text. Called by `run`.

It is PHI. Each row names its run, and whoever goes on with another run does not touch it. What a transaction refuses is
on disk before it commits, and the run knows how many bytes that makes; what is beyond, when a process goes on with the
run, was written by one that did not live to commit, and is cut off.
"""

import base64
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from project import wire
from project.claims.rules import Fault
from project.errors import ServiceError
from project.imports.reading import TOO_LARGE, Chunk, Piece

SUFFIX = ".refused.ndjson"


def path_for(file: Path) -> Path:
    """Where the refused claims of a file go, if nobody says otherwise."""
    return file.with_name(file.name + SUFFIX)


class RefusedFile:
    """Made when the first claim is refused."""

    def __init__(self, path: Path, run: UUID, size: int) -> None:
        """Of a run that has `size` bytes in it. Raises ServiceError when they are not there."""
        self.path = path
        self.size = size
        self._mark = b'{"run":"%b",' % str(run).encode()
        if _size_of(path) < size:
            raise ServiceError(
                f"{path}: the refused claims of this run so far are not there any more; "
                "put the file back, or start from the top with --again"
            )
        self._handle: int | None = None

    def check_new(self) -> None:
        """Raises ServiceError when there is a file already: it may be all that is left of what was refused before."""
        if _size_of(self.path):
            raise ServiceError(f"{self.path}: exists already; move it away, or name another file by --refused")

    def rewind(self, size: int) -> None:
        """Back to what is certain. Raises ServiceError when that cannot be done."""
        self.size = size
        if _size_of(self.path) > size:
            with _told(self.path):
                os.ftruncate(self._opened(), size)

    def append(self, rows: Sequence[bytes]) -> int:
        """Writes these to the disk; the size then. Raises ServiceError when that cannot be done."""
        with _told(self.path):
            handle = self._opened()
            content = memoryview(b"".join(self._mark + row.removeprefix(b"{") for row in rows))
            self.size += len(content)
            while content:
                content = content[os.write(handle, content) :]
            os.fsync(handle)
        return self.size

    def _opened(self) -> int:
        if self._handle is None:
            fresh = not self.path.exists()
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._take(self._handle)
            if fresh:
                _sync_folder(self.path.parent)
        os.lseek(self._handle, self.size, os.SEEK_SET)
        return self._handle

    def _take(self, handle: int) -> None:
        """Makes sure that what is in it is ours, and that nobody else writes to it. Raises ServiceError."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"{self.path}: another import writes to it; name another file by --refused") from None
        begins = os.pread(handle, len(self._mark), 0)  # its first row may have been cut short with its process
        if not self._mark.startswith(begins):
            raise ServiceError(
                f"{self.path}: holds the refused claims of another import; move it away, or name another file by "
                "--refused"
            )
        if not begins:
            os.fchmod(handle, 0o600)

    def close(self) -> None:
        """Lets go of it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceError(f"{path}: refused claims cannot be written ({error.strerror})") from None


def _size_of(path: Path) -> int:
    with _told(path):
        return path.stat().st_size if path.exists() else 0


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk only with its folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused_row(
    chunk: Chunk, piece: Piece, status: int, faults: Sequence[Fault], header: str | None, holder: UUID | None = None
) -> bytes:
    """A refused claim as a row of the file. `holder`: the claim that has its number."""
    told: dict[str, Any] = {"first_line": piece.first, "last_line": piece.last, "status": status, "errors": faults}
    if holder is not None:
        told["claim_id"] = str(holder)
    if header is not None:
        told["header"] = header
    text = chunk.text(piece)
    try:
        told["source"] = None if status == TOO_LARGE and not text else text.decode()
    except UnicodeDecodeError:
        told["source_base64"] = base64.b64encode(text).decode()
    return wire.encode(told) + b"\n"
