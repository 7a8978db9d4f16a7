"""The claims' part of the OpenAPI document: bodies, answers, headers and examples. Called by `routes`.

Requests are not validated by these models: `intake` does that from the bytes, so that every fault of every line is
reported at once and no amount passes through a float. A test holds the two against each other.
"""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from project.openapi import CURSOR, ProblemBody

_USD: dict[str, Any] = {"multipleOf": 0.01}
EXAMPLE_ID = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"


class Fault(BaseModel):
    """One broken rule. The value that broke it is never repeated."""

    line: int | None = Field(description="counted from 1; null for the claim as a whole or the CSV header row")
    field: str = Field(examples=["provider_npi"])
    rule: str = Field(examples=["npi"])
    detail: str = Field(examples=["must be ten digits"])


class InvalidClaim(ProblemBody):
    """A refused claim: all its faults, the first 1,000."""

    errors: list[Fault]


class ReversedClaim(ProblemBody):
    """Payments refused the claim or could not be reached in all attempts; it was taken back and is kept in a letter."""

    reason: Literal["refused", "exhausted"]
    reversed_at: str = Field(examples=["2026-11-23T10:00:01.000Z"], json_schema_extra={"format": "date-time"})
    dead_letter: str = Field(examples=[f"/dead-letters/{EXAMPLE_ID}"])


class LineAnswer(BaseModel):
    """A line under its canonical names. Amounts are USD with two decimals."""

    line_no: int = Field(examples=[1])
    service_dttm: str = Field(examples=["2018-03-28T00:00:00"], description="wall clock, without an offset")
    submitted_proc: str = Field(examples=["D0180"], description="CDT code")
    quadrant: str | None = Field(examples=["UR"])
    group_id: str = Field(examples=["GRP-1000"])
    subscriber_id: str = Field(examples=["3730189502"])
    provider_npi: str = Field(examples=["1497775530"])
    provider_fees: float = Field(examples=[130.00], json_schema_extra=_USD)
    allowed_fees: float = Field(examples=[65.00], json_schema_extra=_USD)
    member_co_ins: float = Field(examples=[16.25], json_schema_extra=_USD)
    member_co_pay: float = Field(examples=[0.00], json_schema_extra=_USD)
    net_fee: float = Field(examples=[81.25], json_schema_extra=_USD)


class ListedClaim(BaseModel):
    """A claim without its lines."""

    id: str = Field(examples=[EXAMPLE_ID], json_schema_extra={"format": "uuid"})
    claim_number: str | None = Field(examples=[None])
    net_fee: float = Field(examples=[81.25], description="USD, the sum over the lines", json_schema_extra=_USD)
    status: Literal["accepted", "paid", "reversing"]
    received_at: str = Field(examples=["2026-11-23T10:00:00.000Z"], json_schema_extra={"format": "date-time"})


class MinimalClaim(ListedClaim):
    """What `Prefer: return=minimal` leaves of the answer."""

    warnings: list[Fault]


class ClaimAnswer(MinimalClaim):
    """A whole claim."""

    lines: list[LineAnswer]


class ClaimPage(BaseModel):
    """A page of claims, newest first."""

    items: list[ListedClaim]
    next_cursor: str | None = Field(description="pass it as `cursor` for the next page; null on the last")


class EventAnswer(BaseModel):
    """A transition of a claim."""

    seq: int = Field(examples=[1])
    type: str = Field(examples=["claim.accepted"])
    at: str = Field(examples=["2026-11-23T10:00:00.000Z"], json_schema_extra={"format": "date-time"})
    actor: str = Field(examples=["local"])
    net_fee: float = Field(examples=[81.25], json_schema_extra=_USD)
    detail: str | None = None


class EventList(BaseModel):
    """A claim's history, oldest first."""

    items: list[EventAnswer]


def _no_number(value: object) -> object:
    """Pydantic would take a bare number for Unix time; a typing error should not become a moment."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("must be an RFC 3339 date-time with an offset")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]


class ClaimsQuery(BaseModel):
    """The filters of GET /claims; another parameter is refused."""

    model_config = ConfigDict(extra="forbid")

    provider_npi: str | None = Field(None, pattern="^[0-9]{10}$")
    status: Literal["accepted", "paid", "reversing"] | None = None
    claim_number: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    received_after: Moment | None = Field(None, description="at this instant or later, with its offset")
    received_before: Moment | None = Field(None, description="before this instant, with its offset")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(
        None, max_length=64, description="next_cursor of the page before", json_schema_extra=CURSOR
    )


_LINE = {
    "type": "object",
    "description": "A claim line. Column names match whatever their case, blanks, line breaks and punctuation, "
    "and each has aliases (`Submitted Procedure`, `Plan/Group #`, `Subscriber#`, `Provider NPI`, ...).",
    "required": [
        "service_dttm", "submitted_proc", "group_id", "subscriber_id", "provider_npi",
        "provider_fees", "allowed_fees", "member_co_ins", "member_co_pay",
    ],
    "properties": {
        "service_dttm": {"type": "string", "description": "ISO 8601, or `3/28/18 0:00`; an offset is dropped"},
        "submitted_proc": {"type": "string", "pattern": "^[ \t]*[Dd][0-9]{4}[ \t]*$", "description": "CDT code"},
        "quadrant": {"type": ["string", "null"], "description": "UR, UL, LL, LR or an X12 oral-cavity code"},
        "group_id": {"type": "string", "minLength": 1, "maxLength": 64},
        "subscriber_id": {"type": "string", "minLength": 1, "maxLength": 64},
        "provider_npi": {"type": ["string", "integer"], "description": "ten digits"},
        **{
            name: {"type": ["number", "string"], "minimum": 0, "description": "USD, at most two decimals"}
            for name in ("provider_fees", "allowed_fees", "member_co_ins", "member_co_pay")
        },
    },
}  # fmt: skip

EXAMPLE_LINE = {
    "service_dttm": "2018-03-28 00:00:00",
    "submitted_proc": "D4346",
    "quadrant": None,
    "group_id": "GRP-1000",
    "subscriber_id": "3730189502",
    "provider_npi": "1497775530",
    "provider_fees": 130.00,
    "allowed_fees": 65.00,
    "member_co_ins": 16.25,
    "member_co_pay": 0.00,
}
_EXAMPLE_CSV = (
    'service date,"submitted procedure",quadrant,"Plan/Group #",Subscriber#,"Provider NPI","provider fees",'
    '"Allowed fees","member coinsurance","member copay"\n'
    "3/28/18 0:00,D4211,UR,GRP-1000,3730189502,1497775530,$178.00 ,$178.00 ,$35.60 ,$0.00 \n"
)

# bare, or as a string of RFC 8941
_KEY = r'^("([\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])+"|[\x21\x23-\x7e]([\x20-\x7e]*[\x21-\x7e])?)$'

POST_CLAIMS: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _KEY},
            "description": "makes a repeat of the same request safe: it answers the claim that the first one made",
        },
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "example": "return=minimal",
            "description": "`return=minimal` leaves the lines out of the answer (RFC 7240)",
        },
    ],
    "requestBody": {
        "required": True,
        "description": "One claim, plain or with Content-Encoding: gzip.",
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "array", "minItems": 1, "items": _LINE},
                        {
                            "type": "object",
                            "required": ["lines"],
                            "properties": {
                                "claim_number": {
                                    "type": ["string", "null"],
                                    "maxLength": 64,
                                    "description": "unique for each client",
                                },
                                "lines": {"type": "array", "minItems": 1, "items": _LINE},
                            },
                        },
                    ]
                },
                "examples": {
                    "lines": {"value": [EXAMPLE_LINE]},
                    "claim": {"value": {"claim_number": "CLM-1234", "lines": [EXAMPLE_LINE]}},
                },
            },
            "text/csv": {"schema": {"type": "string"}, "example": _EXAMPLE_CSV},
        },
    },
}

CREATED: dict[str, Any] = {
    "model": ClaimAnswer | MinimalClaim,
    "description": "The claim is durably stored, not yet paid.",
    "headers": {
        "Location": {"description": "the claim", "schema": {"type": "string"}},
        "Idempotent-Replayed": {"description": "`true` on the answer to a repeat", "schema": {"type": "string"}},
        "Preference-Applied": {"schema": {"type": "string"}},
    },
}
