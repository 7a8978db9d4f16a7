"""The batch's part of the OpenAPI document: its body, the rows of its answer, examples. Called by `batch_routes`.

What is NDJSON is described as the array of its rows, as OpenAPI does from 3.2 on.
"""

import json
from typing import Any

from pydantic import BaseModel, Field

from project.claims.schemas import EXAMPLE_ID, EXAMPLE_LINE, POST_CLAIMS, Fault


class BatchRow(BaseModel):
    """What became of a row; one of these stands on each line of the answer, in the order of the batch.

    A 422 for faults of the claim has `errors` alone; every other refusal is told as a problem (RFC 9457).
    """

    row: int = Field(examples=[1], description="counted from 1, over the rows that are not blank")
    status: int = Field(examples=[201], description="what POST /claims would have answered")
    id: str | None = Field(
        None,
        examples=[EXAMPLE_ID],
        description="of the claim; with a 409, of the one that has the number; with a 503, of one to be looked up",
        json_schema_extra={"format": "uuid"},
    )
    net_fee: float | None = Field(None, examples=[81.25], json_schema_extra={"multipleOf": 0.01})
    warnings: list[Fault] | None = Field(None, description="only if there are any")
    replayed: bool | None = Field(None, description="`true` if an earlier request of this key has stored it")
    errors: list[Fault] | None = Field(None, description="all faults of a refused claim, the first 1,000")
    type: str | None = Field(None, examples=["/problems/claim-number-taken"])
    title: str | None = None
    detail: str | None = None
    location: str | None = Field(None, examples=[f"/claims/{EXAMPLE_ID}"], description="with a 409")
    retry_after: int | None = Field(None, description="seconds, as Retry-After would tell them")
    reason: str | None = Field(None, description="with a 410: why the claim was reversed")
    reversed_at: str | None = Field(None, json_schema_extra={"format": "date-time"})
    dead_letter: str | None = None


def _rows(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


_KEY, _ = POST_CLAIMS["parameters"]
_CLAIM = POST_CLAIMS["requestBody"]["content"]["application/json"]["schema"]
_ROWS = {"type": "array", "minItems": 1, "maxItems": 10_000}
_EXAMPLE = _rows({"claim_number": "CLM-1235", "lines": [EXAMPLE_LINE]}, [EXAMPLE_LINE, EXAMPLE_LINE])
_EXAMPLE_ANSWER = _rows(
    {"row": 1, "status": 201, "id": EXAMPLE_ID, "net_fee": 81.25},
    {
        "row": 2,
        "status": 422,
        "errors": [{"line": 3, "field": "provider_npi", "rule": "npi", "detail": "must be ten digits"}],
    },
)

POST_BATCH: dict[str, Any] = {
    "parameters": [
        _KEY
        | {
            "schema": _KEY["schema"] | {"maxLength": 249},
            "description": "K gives row n the key `K/n`: a repeat of the batch answers what is stored already, and "
            "stores what is not",
        }
    ],
    "requestBody": {
        "required": True,
        "description": "Up to 10,000 rows, plain or with Content-Encoding: gzip. Each row that is not blank is a "
        "claim, in either JSON form of POST /claims, and is stored, or not, by itself.",
        "content": {"application/x-ndjson": {"schema": _ROWS | {"items": _CLAIM}, "example": _EXAMPLE}},
    },
}

_ROW = BatchRow.model_json_schema(ref_template="#/components/schemas/{model}")
del _ROW["$defs"]  # the document has them

ANSWERED: dict[str, Any] = {
    "description": "The whole body was read; what became of each row follows, in order, as it becomes known.",
    "content": {"application/x-ndjson": {"schema": _ROWS | {"items": _ROW}, "example": _EXAMPLE_ANSWER}},
}
