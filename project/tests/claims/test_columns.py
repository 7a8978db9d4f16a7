"""Column names: what folds to what, and which names may be repeated in a fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.claims.columns import ALIASES, FIELDS, field_of, fold, is_computed, shown
from project.claims.rules import OPTIONAL, RULES
from project.claims.schemas import POST_CLAIMS


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("service date", "service_dttm"),
        ("SERVICE\nDATE", "service_dttm"),
        ("\ufeffservice date", "service_dttm"),
        ("Date of Service", "service_dttm"),
        ("submitted\r\nprocedure", "submitted_proc"),
        ("Procedure Code:", "submitted_proc"),
        ("QUADRANT ", "quadrant"),
        ("Plan/Group #", "group_id"),
        ("plan group", "group_id"),
        ("Group-Number", "group_id"),
        ("Subscriber#", "subscriber_id"),
        ("MEMBER_ID", "subscriber_id"),
        ("Provider NPI", "provider_npi"),
        ("n.p.i.", "provider_npi"),
        ("Ｎ Ｐ Ｉ", "provider_npi"),
        ("provider fees", "provider_fees"),
        ("ProviderFees", "provider_fees"),
        ("Allowed fees", "allowed_fees"),
        ("  Allowed   Amount  ", "allowed_fees"),
        ("member coinsurance", "member_co_ins"),
        ("Member Co-Insurance", "member_co_ins"),
        ("member co pay", "member_co_pay"),
        ("(Member) Copay", "member_co_pay"),
    ],
)
def test_spellings_of_a_column_fold_to_its_field(name: str, field: str) -> None:
    assert field_of(name) == field


@pytest.mark.parametrize("name", ["", "#", "fee", "date", "provider", "subscriber_id_2", "npi" * 100, "x" * 1_000_000])
def test_other_names_mean_nothing(name: str) -> None:
    assert field_of(name) is None


def test_no_alias_is_claimed_by_two_fields() -> None:
    folded = [fold(alias) for field in FIELDS for alias in {field, *ALIASES[field]}]
    by_field = {fold(alias): field for field in FIELDS for alias in (field, *ALIASES[field])}
    assert all(field_of(name) == by_field[name] for name in folded)
    assert sum(len({fold(alias) for alias in (field, *ALIASES[field])}) for field in FIELDS) == len(by_field)


@given(st.sampled_from(FIELDS), st.lists(st.sampled_from(" \t\n\r_-#/.,:;()[]\"'*"), max_size=6), st.randoms())
def test_blanks_punctuation_and_capitals_never_matter(field: str, noise: list[str], dice: object) -> None:
    spelled = "".join(char.upper() if index % 2 else char for index, char in enumerate(field))
    assert field_of("".join(noise) + spelled.join(["", "".join(noise)])) == field


@pytest.mark.parametrize("name", ["id", "ID", "net_fee", "Net Fee", "claim id", "net fees", "status"])
def test_what_the_service_works_out_is_known_as_such(name: str) -> None:
    assert is_computed(name)
    assert field_of(name) is None


@pytest.mark.parametrize("name", ["colour", "Extra Column", "x.y/z", "net_fee", "a1b2"])
def test_a_fault_names_a_column_by_a_name_that_looks_like_one(name: str) -> None:
    assert shown(name, 3) == name


@pytest.mark.parametrize(
    "name",
    [
        "3730189502",
        "SUB-3730189502",
        "GRP-1000",
        "W12-345-678",
        "a1b2c3d4",
        "",
        "x" * 65,
        "müller",
        "a\nb",
        "3/28/18",
        "$100.00",
        "a\x00",
    ],
)
def test_a_name_that_could_be_a_value_is_told_by_its_position(name: str) -> None:
    assert shown(name, 3) == "column 3"


def test_the_document_shows_the_columns_that_the_rules_know() -> None:
    schema = POST_CLAIMS["requestBody"]["content"]["application/json"]["schema"]["oneOf"][0]["items"]
    assert tuple(schema["properties"]) == FIELDS == tuple(rule.field for rule in RULES)
    assert schema["required"] == [field for field in FIELDS if field not in OPTIONAL]
