"""NDJSON for schemathesis, which knows only other forms: a body is an array of its rows. Loaded by `test_contract`."""

import json
from typing import Any

import schemathesis

MEDIA = "application/x-ndjson"


@schemathesis.serializer(MEDIA)
def written(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """A body of rows; an example, or what is meant to be no batch at all, is sent as it is."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    rows = value if isinstance(value, list) else [value]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@schemathesis.deserializer(MEDIA)
def read(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> list[Any]:
    """The rows of an answer."""
    return [json.loads(row) for row in response.content.splitlines()]
