"""The small words in which the OpenAPI description is written. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

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


# A struct stands for its own schema: what checks a request describes it too.
Described = Schema | type[msgspec.Struct]
_REF = "#/components/schemas/{name}"


def schema_of(kind: Any) -> Schema:
    """The schema of any type that msgspec knows; structs in it are named, and belong into `components`."""
    (schema,), _ = msgspec.json.schema_components((kind,), ref_template=_REF)
    return schema


def described(schema: Described) -> Schema:
    """What to write where `schema` belongs."""
    return schema_of(schema) if isinstance(schema, type) else schema


def components(kinds: Iterable[Described]) -> dict[str, Schema]:
    """The schemas of the structs among `kinds` and of all that they name."""
    structs = [kind for kind in kinds if isinstance(kind, type)]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return schemas
