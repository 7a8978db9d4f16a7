"""What an import stores, what it refuses, and what it does not begin."""

import asyncio
import fcntl
import gzip
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from project.claims import statements
from project.errors import ServiceError
from project.ids import new_id
from project.imports.statements import LOCK
from project.tests.imports.importing import HEADER, Importer, claim, faults_of, many, packed, refused_of, row
from project.tests.operations import commands
from project.tests.service import ROOT, line

EXAMPLE = (ROOT / "project" / "tests" / "data" / "claim_1234.csv").read_bytes()


@pytest.fixture(scope="module")
def importer(shared_database_url: str) -> Iterator[Importer]:
    """The database of this module; whatever its tests have imported, its books balance."""
    made = Importer(shared_database_url)
    yield made
    assert made.healthy()


def test_a_csv_without_numbers_is_one_claim(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "claim.csv"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE)
    done = importer.run(file, "example")
    assert (done.finished, done.run.accepted, done.run.lines, done.run.net_fee) == (True, 1, 4, Decimal("116.85"))
    [stored] = importer.fetch(
        "SELECT * FROM claim JOIN payment ON claim_id = claim.id JOIN claim_event USING (claim_id) "
        "WHERE claim.client = 'example'"
    )
    assert (stored["claim_number"], stored["status"], stored["state"]) == (None, "accepted", "due")
    assert (stored["type"], stored["seq"], stored["actor"]) == ("claim.accepted", 1, "cli:tester")
    assert (stored["amount"], stored["line_count"], stored["lease_no"]) == (Decimal("116.85"), 4, 0)


def test_lines_are_stored_as_post_stores_them(importer: Importer, tmp_path: Path) -> None:
    odd = {"group_id": "\\N \\t é\u00a0", "subscriber_id": "back\\slash", "quadrant": "q\\"}
    file = tmp_path / "odd.jsonl"
    file.write_bytes(claim("Nº \\1", line(**odd, provider_fees=110.5), line(service_dttm="0999-12-31T23:59:59.5Z")))
    importer.run(file, "odd")
    [first, second] = importer.fetch(
        "SELECT claim_line.*, claim_number, warnings FROM claim_line JOIN claim ON id = claim_id "
        "WHERE client = 'odd' ORDER BY line_no"
    )
    assert {name: first[name] for name in odd} == odd | {"quadrant": "Q\\"}
    assert (first["claim_number"], first["net_fee"]) == ("Nº \\1", Decimal("10.50"))
    assert '"rule":"quadrant"' in first["warnings"].replace(" ", "")
    assert (second["service_dttm"].isoformat(), second["quadrant"]) == ("0999-12-31T23:59:59.500000", None)


def test_csv_of_many_claims_and_what_is_refused_of_it(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    refused = [row("B", npi="1") + row("B", fees="-1"), row("") + row(""), row("C"), row("A")]
    file.write_text(HEADER + row("A") * 3 + row("D") + "".join(refused) + row("E"))
    done = importer.run(packed(file), "many", npi_check="off")
    assert importer.numbers("many") == ["A", "D", "E"]
    assert (done.run.accepted, done.run.refused, done.run.lines) == (3, 3, 5)
    told = refused_of(done.run.refused_path)
    places = [(one["first_line"], one["last_line"], one["status"]) for one in told]
    assert places == [(6, 9, 422), (10, 10, 422), (11, 11, 409)]
    assert [one["header"] for one in told] == [HEADER] * 3
    assert "".join(one["source"] for one in told) == "".join(refused)


def test_refused_claims_can_be_mended_and_sent_again(importer: Importer, tmp_path: Path) -> None:
    rows = [claim("A"), b'{"claim_number": "B", "lines": [{"npi": "x"}, 5]}\n', b"not JSON\n", b"\xff\n", claim("A")]
    file = tmp_path / "FILE"
    file.write_bytes(b"".join(rows))
    done = importer.run(file, "mended")
    told = refused_of(done.run.refused_path)
    assert done.run.refused_path == tmp_path / "FILE.refused.ndjson"
    assert done.run.refused_path.stat().st_mode & 0o777 == 0o600
    assert [(one["first_line"], one["status"]) for one in told] == [(2, 422), (3, 400), (4, 400), (5, 409)]
    assert [one.get("source") for one in told] == [rows[1].decode().strip(), "not JSON", None, rows[4].decode().strip()]
    assert told[2]["source_base64"] == "/w=="
    assert (1, "provider_npi", "npi") in faults_of(told[0])
    assert (2, "line", "type") in faults_of(told[0])
    assert faults_of(told[3]) == [(None, "claim_number", "taken")]
    [[holder]] = importer.fetch("SELECT id::text FROM claim WHERE client = 'mended'")
    assert told[3]["claim_id"] == holder
    subprocess.run(f"python={sys.executable}; {commands('mend')}", shell=True, cwd=tmp_path, check=True)  # noqa: S602
    mended = tmp_path / "mended"
    assert mended.read_bytes() == rows[1] + rows[2] + rows[4]
    mended.write_bytes(mended.read_bytes().replace(b'"A"', b'"C"'))
    assert importer.run(mended, "mended").run.accepted == 1


def test_numbers_are_each_clients_own_and_those_of_post_count(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", [1, 2, 3])
    importer.fetch("INSERT INTO claim_number VALUES ('N-2', 'taken', gen_random_uuid())")
    assert importer.run(file, "other").run.accepted == 3
    assert importer.run(file, "taken", refused=tmp_path / "refused").run.refused == 1
    importer.fetch("DELETE FROM claim_number WHERE client = 'taken'")


def test_a_finished_file_is_imported_again_only_when_asked_to(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_bytes(EXAMPLE)
    importer.run(file, "again")
    with pytest.raises(ServiceError, match="was imported already"):
        importer.run(file, "again")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(EXAMPLE)
    with pytest.raises(ServiceError, match="was imported already"):
        importer.run(copy, "again")
    assert importer.run(copy, "again", again=True).run.accepted == 1
    assert importer.numbers("again") == [None, None]


def test_an_interrupted_import_goes_on_and_a_changed_file_does_not(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", range(1, 2501), lines=1)
    part = importer.run(packed(file), "parts", stop=lambda: True)
    assert (part.finished, part.run.accepted + part.run.refused) == (False, 1000)
    whole = gzip.decompress(packed(file).read_bytes())
    (tmp_path / "file.ndjson.gz").write_bytes(gzip.compress(whole + claim()))
    with pytest.raises(ServiceError, match=r"has changed since 858 claims.*--again"):
        importer.run(tmp_path / "file.ndjson.gz", "parts")
    (tmp_path / "file.ndjson.gz").write_bytes(gzip.compress(whole))
    done = importer.run(packed(file), "parts")
    assert (done.finished, done.resumed, done.new_lines, done.run.lines) == (True, True, 2143 - 858, 2143)
    assert importer.numbers("parts") == [f"N-{number}" for number in range(1, 2501) if number % 7]
    assert [one["first_line"] for one in refused_of(done.run.refused_path)] == list(range(7, 2501, 7))


def test_an_interrupted_repeat_goes_on_by_the_same_command(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "file.ndjson"
    file.write_bytes(claim() * 2500)
    first = importer.run(file, "repeated", stop=lambda: True)
    anew = importer.run(file, "repeated", again=True, stop=lambda: True)
    assert (first.run.accepted, anew.resumed, anew.run.accepted) == (1000, False, 1000)
    for accepted in (2000, 2500):
        on = importer.run(file, "repeated", again=True, stop=partial(int.__lt__, accepted, 2500))
        assert (on.resumed, on.run.id, on.run.accepted) == (True, anew.run.id, accepted)
    assert len(importer.numbers("repeated")) == 1000 + 2500
    once_more = importer.run(file, "repeated", again=True)
    assert (once_more.resumed, once_more.finished, once_more.run.accepted) == (False, True, 2500)


def test_refused_claims_of_another_import_are_left_alone(importer: Importer, tmp_path: Path) -> None:
    file = tmp_path / "file.ndjson"
    file.write_bytes(claim() * 1500 + b"refused\n")
    one = importer.run(file, "one", stop=lambda: True)
    other = importer.run(file, "other")
    kept = other.run.refused_path.read_bytes()
    assert kept.startswith(b'{"run":"%b",' % str(other.run.id).encode())
    assert one.run.refused_path == other.run.refused_path
    with pytest.raises(ServiceError, match="holds the refused claims of another import"):
        importer.run(file, "one")
    assert other.run.refused_path.read_bytes() == kept
    done = importer.run(file, "one", refused=tmp_path / "elsewhere")
    assert (done.finished, done.run.accepted, done.run.refused) == (True, 1500, 1)
    [told] = refused_of(tmp_path / "elsewhere")
    assert (told["run"], told["source"]) == (str(one.run.id), "refused")
    held = (tmp_path / "held").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ServiceError, match="another import writes to it"):
        importer.run(file, "third", refused=tmp_path / "held")
    held.close()
    assert importer.run(file, "third").run.refused_path.stat().st_mode & 0o777 == 0o600


def test_what_was_refused_before_is_not_overwritten(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", range(1, 1501), lines=1)
    kept = tmp_path / "file.ndjson.refused.ndjson"
    kept.write_text("somebody's")
    with pytest.raises(ServiceError, match="exists already"):
        importer.run(file, "kept")
    kept.unlink()
    importer.run(file, "kept", stop=lambda: True)
    kept.rename(tmp_path / "elsewhere")
    with pytest.raises(ServiceError, match="put the file back"):
        importer.run(file, "kept")
    (tmp_path / "elsewhere").rename(kept)
    with kept.open("a") as later:
        later.write('{"written": "by one that did not live to commit')
    assert importer.run(file, "kept").run.refused == len(refused_of(kept)) == 1500 // 7


def test_a_file_that_changes_meanwhile_is_told_and_not_finished(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", [1, 2])

    def change() -> bool:
        with file.open("ab") as more:
            more.write(claim("N-3"))
        return False

    with pytest.raises(ServiceError, match="was changed while it was imported; the 2 claims"):
        importer.run(file, "meanwhile", stop=change)
    assert importer.fetch("SELECT state FROM import_run WHERE client = 'meanwhile'") == [("running",)]


async def test_a_number_that_somebody_is_taking_is_waited_for(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", [1, 2])
    somebody, watcher = [await asyncpg.connect(importer.database_url) for _ in range(2)]
    held = somebody.transaction()
    await held.start()
    await somebody.fetch(statements.NUMBERS, ["N-1"], ["waits"], [new_id()])
    importing = asyncio.create_task(asyncio.to_thread(importer.run, file, "waits"))
    tries = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'ROLLBACK'"
    while not await watcher.fetchval(tries):
        assert not importing.done()
    await held.rollback()
    assert (await importing).run.accepted == 2
    await somebody.close()
    await watcher.close()


async def test_two_processes_do_not_import_one_file(importer: Importer, tmp_path: Path) -> None:
    file = many(tmp_path / "file.ndjson", [1])
    other = await asyncpg.connect(importer.database_url)
    await other.fetchval(LOCK, hashlib.sha256(file.read_bytes()).digest(), "both")
    with pytest.raises(ServiceError, match="is being imported just now"):
        await asyncio.to_thread(importer.run, file, "both")
    assert (await asyncio.to_thread(importer.run, file, "another")).run.accepted == 1
    await other.close()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ndjson", b"", "is empty"),
        ("a.csv", "Claim #,service date\n".encode("utf-16"), "UTF-16"),
        ("a.csv", HEADER.replace("member copay", "colour").encode(), "colour"),
        ("a.csv.gz", gzip.compress(HEADER.encode())[:-9], "cut off or damaged"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(
    importer: Importer, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ServiceError, match=words):
        importer.run(tmp_path / name)


def test_what_is_whole_of_a_damaged_file_is_imported(importer: Importer, tmp_path: Path) -> None:
    file = packed(many(tmp_path / "file.ndjson", range(1, 6001)))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ServiceError, match="cut off or damaged"):
        importer.run(file, "damaged")
    [[accepted]] = importer.fetch("SELECT accepted FROM import_run WHERE client = 'damaged'")
    assert accepted == len(importer.numbers("damaged")) > 1000
