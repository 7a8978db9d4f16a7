"""What a discard erases, and when: at once from every table, and from the files after the maintenance that
docs/operations.md names.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from project.engines.places import Places
from project.tests.operations import Operator
from project.tests.own_engines import migrate_with, own_postgres
from project.tests.phi import files_with, relations_with
from project.tests.saga import Saga, performing
from project.tests.service import line

MARK = "MRKD77314711"
OTHERS = "KEPT55001122"
REFUSED = "2222222222"


class Discarded(NamedTuple):
    """What was found before the discard and after it, and the database that is left."""

    places: Places
    saga: Saga
    before: set[str]
    files_before: list[str]
    after: set[str]


def dead_letter(saga: Saga, *lines: dict[str, object]) -> None:
    saga.submit(1, *lines)
    saga.await_quiet()


@pytest.fixture(scope="module")
def discarded(template: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Discarded]:
    folder = tmp_path_factory.mktemp("erasure")
    with own_postgres(folder) as (places, _):
        migrate_with(places.postgres_url, folder)
        with performing(folder / "saga", places.postgres_url, template.redis_url) as saga:
            saga.payments.behave(refuse_npis=[REFUSED])
            saga.worker()
            saga.submit(50, line(subscriber_id=OTHERS))
            dead_letter(saga, line(subscriber_id=MARK, provider_npi=REFUSED))
            large = [line(subscriber_id=f"{MARK}-{n}", group_id=f"G{n * n}", provider_npi=REFUSED) for n in range(200)]
            dead_letter(saga, *large)  # its letter is too large for its page, so it is kept beside it
            saga.submit(50, line(subscriber_id=OTHERS))
            saga.await_quiet()
            saga.fetch("ANALYZE")  # as autovacuum does sooner or later
            saga.fetch("CHECKPOINT")
            before = relations_with(saga.database_url, MARK)
            files_before = files_with(MARK, places.postgres / "base")
            saga.run("dead-letters", "discard", "--all")
            yield Discarded(places, saga, before, files_before, relations_with(saga.database_url, MARK))


def test_before_the_discard_the_letter_alone_holds_the_claim(discarded: Discarded) -> None:
    assert discarded.before == {"dead_letter"}
    assert len(discarded.files_before) >= 2  # that of claim_line, from which the reversal deleted it, is one


def test_after_the_discard_no_row_of_any_table_or_statistic_holds_it(discarded: Discarded) -> None:
    assert discarded.after == set()
    assert discarded.saga.fetch("SELECT count(*) FROM dead_letter WHERE state = 'discarded'") == [(2,)]


def test_after_the_documented_maintenance_no_file_of_a_table_holds_it(discarded: Discarded) -> None:
    places, saga = discarded.places, discarded.saga
    saga.fetch("CHECKPOINT")
    assert files_with(MARK, places.postgres / "base")  # the rows are gone, their bytes are not
    Operator(places.data).does("erase")
    assert files_with(MARK, places.postgres / "base") == []
    assert saga.fetch("SELECT count(*) FROM claim_line WHERE subscriber_id = $1", OTHERS) == [(100,)]
    assert files_with(MARK, places.postgres / "pg_wal")  # until it is overwritten, as the document says
