"""The small words in which the OpenAPI description is written. Pure."""

from __future__ import annotations

from app.event_schema import Schema

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
UNIQUE_REQ_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def object_of(required: str = "", **properties: Schema) -> Schema:
    """An object schema; `required` names members, separated by spaces."""
    return {"type": "object", "required": required.split(), "properties": properties}


def or_null(schema: Schema) -> Schema:
    """`schema`, or null."""
    return {"anyOf": [schema, {"type": "null"}]}
