"""UUID v7: order, version, and the instant inside."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from project.ids import born_at, first_id_at, new_id, rfc3339


def test_ids_made_one_after_the_other_sort_in_that_order() -> None:
    made = [new_id() for _ in range(10_000)]
    milliseconds_and_fractions = [made_id.int >> 64 for made_id in made]
    assert milliseconds_and_fractions == sorted(milliseconds_and_fractions)
    assert len(set(made)) == len(made)


def test_an_id_is_of_version_7_and_of_the_rfc_variant() -> None:
    made = new_id()
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"


def test_an_id_carries_the_millisecond_of_its_birth() -> None:
    before = datetime.now(UTC)
    born = born_at(new_id())
    after = datetime.now(UTC)
    assert before - timedelta(milliseconds=1) < born <= after


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_first_id_of_an_instant_separates_before_from_at_or_after(instant: datetime) -> None:
    first = first_id_at(instant)
    assert born_at(first) >= instant
    assert born_at(first) - instant < timedelta(milliseconds=1)
    assert first.version == 7


def test_an_instant_before_the_epoch_starts_with_the_smallest_id() -> None:
    assert first_id_at(datetime(1960, 1, 1, tzinfo=UTC)) == first_id_at(datetime(1970, 1, 1, tzinfo=UTC))


def test_instants_are_written_in_utc_with_milliseconds() -> None:
    assert rfc3339(datetime.fromisoformat("2026-11-23T12:00:00.123999+02:00")) == "2026-11-23T10:00:00.123Z"
    assert rfc3339(born_at(UUID(int=0))) == "1970-01-01T00:00:00.000Z"
