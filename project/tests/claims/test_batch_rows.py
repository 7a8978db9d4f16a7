"""Where a batch's rows are, how many are read at a time, and whose turn it is. No process is started."""

import asyncio
import json
import random

import pytest

from project.claims import batch_rows, room
from project.claims.batch import NewClaim
from project.claims.batch_rows import Sender
from project.claims.room import Room
from project.errors import DatabaseAway, Overloaded, Problem
from project.settings import IntakeSettings
from project.tests.service import line

SENDER = Sender("clinic", "k", None)
LIMITS = IntakeSettings(_env_file=None)


def texts(content: bytes) -> list[bytes]:
    return [content[start:end] for start, end in batch_rows.find_rows(content)]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a", [b"a"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"\xef\xbb\xbf\r\n a \t\r\n\n\t\n b", [b"a \t", b"b"]),
        (b"a\rb\r\r\nc\r", [b"a\rb\r", b"c"]),
        (b"\n" * 3_000_000 + b"a\n" + b" " * 2_000_000 + b"b", [b"a", b"b"]),
    ],
)
def test_rows_are_what_is_not_blank(content: bytes, rows: list[bytes]) -> None:
    assert texts(content) == rows


def test_rows_are_found_as_by_a_slower_way() -> None:
    dice = random.Random(19)
    for _ in range(2000):
        content = bytes(dice.choices(b"ab \t\r\n", k=dice.randrange(1, 30)))
        rows = [row.removesuffix(b"\r").lstrip(b" \t\r") for row in content.split(b"\n") if row.strip(b" \t\r")]
        if rows:
            assert texts(content) == rows
        else:
            with pytest.raises(Problem, match="Invalid batch"):
                texts(content)


def read_all(content: bytes) -> list[batch_rows.Slice]:
    places = batch_rows.find_rows(content)
    made: list[batch_rows.Slice] = []
    while (seen := sum(len(one.rows) for one in made)) < len(places):
        made.append(batch_rows.read(content, places, seen + 1, SENDER, LIMITS))
    return made


def test_a_slice_is_bounded_in_rows_bytes_and_answers() -> None:
    claims: list[list[object]] = [[line()], [line()] * 500, [{}] * 500]
    small, large, wrong = (json.dumps(claim).encode() + b"\n" for claim in claims)
    for content, most in ((small * 2000, batch_rows.SLICE_ROWS), (large * 12, 3), (wrong * 40, 8)):
        made = read_all(content)
        assert [row for one in made for row, _ in one.rows] == list(range(1, content.count(b"\n") + 1))
        assert 1 < max(len(one.rows) for one in made) <= most
    assert len(read_all(json.dumps([line()] * 5000).encode() + b"\n" + small)) == 2


def test_rows_have_keys_and_fingerprints_of_their_own() -> None:
    row = json.dumps([line()]).encode()
    [made] = read_all(row + b"\r\n" + row)
    claims = made.claims
    assert [claim.key for claim in claims] == ["k/1", "k/2"]
    assert claims[0].fingerprint == claims[1].fingerprint != b""
    assert made.lines == 2
    unkeyed = batch_rows.read(row, [(0, len(row))], 1, Sender("clinic", None, None), LIMITS)
    assert all(isinstance(entry, NewClaim) and entry.key is None for _, entry in unkeyed.rows)


async def test_room_is_given_in_turn_and_goes_one_slice_too_far_at_most() -> None:
    rooms = Room(10)
    order: list[int] = []

    async def batch(name: int) -> None:
        for _ in range(3):
            async with rooms.turn():
                assert rooms._lines < 10
                order.append(name)
                rooms.take(6)
            await asyncio.sleep(0)
            rooms.give_back(6, None)

    await asyncio.gather(*(batch(name) for name in range(4)))
    assert order[:8] == [0, 1, 2, 3] * 2
    assert rooms._lines == 0


async def test_what_keeps_one_slice_from_being_stored_is_told_to_all_that_wait() -> None:
    rooms = Room(1)
    async with rooms.turn():
        rooms.take(1)

    async def wait() -> None:
        async with rooms.turn():
            rooms.take(1)

    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    rooms.give_back(1, DatabaseAway())
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseAway] * 3
    await wait()  # who comes later tries for itself


async def test_a_turn_that_does_not_come_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAIT_S", 0.01)
    rooms = Room(1)
    async with rooms.turn():
        rooms.take(1)
    with pytest.raises(Overloaded):
        async with rooms.turn():
            pass
    rooms.give_back(1, None)
    async with rooms.turn():
        pass
