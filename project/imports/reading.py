"""Cuts a file into claims and puts these into chunks, in order, in bounded memory. Called by `run`.

Nothing is parsed here beyond what tells where a claim ends. What comes out is the text of each claim and its place in
the file; what cannot be a claim comes with its fault already.
"""

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from project.claims.rules import Fault
from project.errors import ServiceError
from project.imports.files import BLOCK

# A chunk is one transaction. Larger ones commit less often, but hold more memory and more locks: one for each number.
# Both sizes are some 8,000 lines: in larger chunks fewer rows of the totals are written twice.
CHUNK_BYTES = {"csv": 768 * 1024, "ndjson": 2 * 1024 * 1024}
CHUNK_CLAIMS = 1_000

UNREADABLE, TOO_LARGE, INVALID = 400, 413, 422


class Position(msgspec.Struct, frozen=True):
    """A place between two claims: bytes from the start of the unpacked file; the next claim and line, from 1.

    `in_doubt`: a line before it may belong to the claim after it.
    """

    offset: int = 0
    row: int = 1
    line: int = 1
    in_doubt: bool = False


class Piece(msgspec.Struct, array_like=True):
    """A claim's text: its first and last line in the file, and where it stands in the chunk's data.

    With faults it is refused as it is; one that is too large has no text.
    """

    first: int
    last: int
    start: int
    end: int
    status: int = 0
    faults: list[Fault] = []


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole claims in a row, and where the file goes on after them."""

    pieces: list[Piece]
    data: bytes
    after: Position

    def text(self, piece: Piece) -> bytes:
        """The claim as it stands in the file."""
        return self.data[piece.start : piece.end]


class Found(NamedTuple):
    """A claim's text and lines, and the place after it."""

    first: int
    last: int
    text: bytes
    offset: int
    in_doubt: bool = False
    status: int = 0
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one claim."""

    lines: int
    text_bytes: int


def chunks(found: Iterator[Found], start: Position, most_bytes: int) -> Generator[Chunk]:
    """Groups claims into chunks; the last may be small. A file that ends in an error has chunks until there."""
    pieces: list[Piece] = []
    texts: list[bytes] = []
    size = 0
    failure: ServiceError | None = None
    after = start
    try:
        for one in found:
            pieces.append(Piece(one.first, one.last, size, size + len(one.text), one.status, list(one.faults)))
            texts.append(one.text)
            size += len(one.text)
            after = Position(one.offset, after.row + 1, one.last + 1, one.in_doubt)
            if size >= most_bytes or len(pieces) >= CHUNK_CLAIMS:
                yield Chunk(pieces, b"".join(texts), after)
                pieces, texts, size = [], [], 0
    except ServiceError as error:
        failure = error
    if pieces:
        yield Chunk(pieces, b"".join(texts), after)
    if failure:
        raise failure


def ndjson_claims(stream: io.BufferedReader, start: Position, limits: Limits) -> Iterator[Found]:
    """A claim in each row that is not blank."""
    offset, line = start.offset, start.line - 1
    while row := stream.readline(limits.text_bytes + 1):
        offset += len(row)
        line += 1
        if len(row) > limits.text_bytes:
            offset += rest_of_row(stream, row)
            yield Found(line, line, b"", offset, False, TOO_LARGE, (too_large(limits),))
        elif not row.isspace():
            yield Found(line, line, row.rstrip(b"\r\n"), offset)


def rest_of_row(stream: io.BufferedReader, row: bytes) -> int:
    """Reads to the end of a row whose beginning was read; how many bytes that was."""
    skipped = 0
    while row and not row.endswith(b"\n"):
        row = stream.readline(BLOCK)
        skipped += len(row)
    return skipped


def one_claim(stream: io.BufferedReader, start: Position, limits: Limits) -> Iterator[Found]:
    """A file that is one claim as a whole."""
    text = stream.read(limits.text_bytes + 1)
    if not text:
        return
    size, line = len(text), start.line + text.count(b"\n") - text.endswith(b"\n")
    if size <= limits.text_bytes:
        yield Found(start.line, line, text, start.offset + size)
        return
    del text
    while more := stream.read(BLOCK):
        size += len(more)
        line += more.count(b"\n")
    yield Found(start.line, line, b"", start.offset + size, False, TOO_LARGE, (too_large(limits),))


def too_large(limits: Limits) -> Fault:
    """The fault of a claim whose text is too long to be looked at."""
    return Fault(None, "claim", "max_bytes", f"must have at most {limits.text_bytes} bytes")
