"""Pieces of the OpenAPI document that several features share. Called by the routes modules."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from pydantic.config import JsonDict


class ProblemBody(BaseModel):
    """RFC 9457 problem details; further members depend on the type."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str | None = None


# What `claims.answers` makes of an id; any other text of this form stands for an id, too.
CURSOR: JsonDict = {"pattern": "^[A-Za-z0-9_-]{22}$"}

_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for these error statuses, each application/problem+json."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def as_problems(document: dict[str, Any]) -> None:
    """Gives every error answer of an OpenAPI document its media type: none of ours leaves as plain JSON."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "400" and "application/json" in content:
                    content["application/problem+json"] = content.pop("application/json")
