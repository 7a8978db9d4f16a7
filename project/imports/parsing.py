"""`python -m project.imports.parsing`: a process that turns the texts of claims into rows for COPY, or into faults.

Started by `pool`; it imports little, to be there at once. Frames come in over standard input and go out over standard
output: first a Setup, then Work after Work, each answered by Parsed. It ends when its input does, so it never outlives
the process that started it.
"""

import csv
import gc
import io
import signal
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import IO

import msgspec

from project.claims import copying, intake
from project.claims.intake import Refused, Unreadable
from project.claims.lines import Line, ParsedClaim
from project.claims.rules import Fault, NpiCheck, Plan
from project.ids import new_id
from project.imports.csv_claims import Header, plan_for
from project.imports.files import Format
from project.imports.reading import INVALID, UNREADABLE, Piece

LENGTH_BYTES = 8
# Claims of nothing but faults say much more than they are long. Past so many in a chunk, each names but a few.
FAULTS_A_CHUNK = 20_000
FAULTS_THEN = 10


class Setup(msgspec.Struct):
    """What all claims of a file have in common."""

    format: Format
    client: str
    actor: str
    max_lines: int
    max_nesting: int
    npi_check: NpiCheck
    header: Header | None


class Work(msgspec.Struct, array_like=True):
    """A chunk."""

    pieces: list[Piece]
    data: bytes


class Ready(msgspec.Struct, array_like=True):
    """A claim without a fault: rows for COPY, and its totals, looked at only if not all claims are stored."""

    piece: int
    id: str
    number: str | None
    net_fee: Decimal
    line_count: int
    claim: bytes
    event: bytes
    payment: bytes
    lines: bytes
    totals: msgspec.Raw


class TurnedDown(msgspec.Struct, array_like=True):
    """A claim with faults."""

    piece: int
    status: int
    faults: list[Fault]


class Parsed(msgspec.Struct, array_like=True):
    """What became of the claims of a chunk, each in order, and the totals of all that are ready."""

    ready: list[Ready]
    refused: list[TurnedDown]
    totals: tuple[str, str, str] = ("", "", "")


def parser(setup: Setup) -> Callable[[bytes], ParsedClaim]:
    """What parses the text of a claim of this file; it raises Refused or Unreadable."""
    if setup.format == "ndjson":
        return lambda text: intake.parse_json(text, setup.max_lines, setup.npi_check, setup.max_nesting)
    if setup.header is None or setup.header.number is None:
        return lambda text: intake.parse_csv(text, setup.max_lines, setup.npi_check)
    header, plan = setup.header, plan_for(setup.header)
    return lambda text: _claim_of_rows(text, header, plan, setup)


def _claim_of_rows(text: bytes, header: Header, plan: Plan, setup: Setup) -> ParsedClaim:
    try:
        lines = io.StringIO(text.decode(), newline="")
        rows = [row for row in csv.reader(lines, strict=True, skipinitialspace=True) if row]
    except UnicodeDecodeError as error:
        raise Unreadable(f"the claim is not UTF-8: byte {error.start + 1}") from None
    except csv.Error:
        raise Unreadable("the claim is not CSV") from None
    numbers = [row.pop(header.number or 0) for row in rows]
    return intake.parse_rows(numbers[0], plan, len(header.names) - 1, rows, setup.max_lines, setup.npi_check)


def parse(parsing: Callable[[bytes], ParsedClaim], setup: Setup, work: Work) -> Parsed:
    """The whole chunk."""
    done = Parsed([], [])
    faults = 0
    for place, piece in enumerate(work.pieces):
        if not piece.faults:
            text = work.data[piece.start : piece.end]
            try:
                done.ready.append(_ready(place, parsing(text), setup))
                continue
            except Refused as refused:
                piece.status, piece.faults = INVALID, list(refused.faults)
            except Unreadable as unreadable:
                piece.status, piece.faults = UNREADABLE, [Fault(None, "claim", "unreadable", str(unreadable))]
        shown = piece.faults[: max(FAULTS_A_CHUNK - faults, FAULTS_THEN)]
        faults += len(shown)
        done.refused.append(TurnedDown(place, piece.status, shown))
    done.totals = totals_of(done.ready)
    return done


def _ready(place: int, content: ParsedClaim, setup: Setup) -> Ready:
    claim_id = str(new_id())
    return Ready(
        piece=place,
        id=claim_id,
        number=content.claim_number,
        net_fee=content.net_fee,
        line_count=len(content.lines),
        claim=copying.claim_row(claim_id, setup.client, content).encode(),
        event=copying.event_row(claim_id, new_id(), setup.actor, setup.client, content).encode(),
        payment=copying.payment_row(claim_id).encode(),
        lines=copying.line_rows(claim_id, content.lines).encode(),
        totals=msgspec.Raw(msgspec.msgpack.encode(_totals(content.lines))),
    )


def _totals(lines: Sequence[Line]) -> list[tuple[str, Decimal, int]]:
    fees: defaultdict[str, list[Decimal]] = defaultdict(list)
    for line in lines:
        fees[line.provider_npi].append(line.net_fee)
    return [(npi, sum(due, Decimal(0)), len(due)) for npi, due in fees.items()]


_totals_decoder = msgspec.msgpack.Decoder(list[tuple[str, Decimal, int]])


def totals_of(ready: Sequence[Ready]) -> tuple[str, str, str]:
    """NPIs, their net fees and lines, summed over these claims, in NPI order: columns as `statements` takes them."""
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    counts: defaultdict[str, int] = defaultdict(int)
    for one in ready:
        for npi, due, count in _totals_decoder.decode(one.totals):
            fees[npi] += due
            counts[npi] += count
    npis = sorted(fees)
    return ",".join(npis), ",".join(str(fees[npi]) for npi in npis), ",".join(str(counts[npi]) for npi in npis)


def read_frame(source: IO[bytes]) -> bytes | None:
    """The next frame; None at the end."""
    length = source.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    frame = source.read(size := int.from_bytes(length, "big"))
    return frame if len(frame) == size else None


def framed(content: bytes) -> bytes:
    """With its length before it."""
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def main(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answers chunk after chunk."""
    first = read_frame(source)
    if first is None:
        return
    setup = msgspec.msgpack.decode(first, type=Setup)
    parsing = parser(setup)
    decoder, encoder = msgspec.msgpack.Decoder(Work), msgspec.msgpack.Encoder()
    while (frame := read_frame(source)) is not None:
        sink.write(framed(encoder.encode(parse(parsing, setup, decoder.decode(frame)))))
        sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever ends all processes at once wants the transaction finished
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # rows come and go by the thousand and make no circles; looking costs a tenth
    try:
        main(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        pass
    except Exception as error:  # noqa: BLE001  a defect; its text could hold values
        place = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(f"claim_process: a defect in parsing ({type(error).__name__} at {place.name}:{place.lineno})")
