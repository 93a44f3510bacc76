"""The OpenAPI description of the analyses (`app.analyse`), from the types that read and write them. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from app import funnel, retention
from app.event_schema import Schema
from app.openapi_schema import INTEGER, TEXT, object_of

_ABOUT: dict[str, Schema] = {
    "time_period": object_of("start end", start=TEXT, end=TEXT),
    "elapsed_ms": {"type": "number"},
    "fresh_as_of": INTEGER,
}


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of a type, whole, without references."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    whole: Schema = _whole(schema, components)
    return whole


def _whole(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_whole(item, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(components[schema["$ref"]], components)
    whole = {name: _whole(value, components) for name, value in schema.items()}
    if isinstance(text := whole.get("description"), str):
        whole["description"] = " ".join(text.split())
    return whole


def _answer(**members: Any) -> Schema:
    described = {name: schema_of(kind) for name, kind in members.items()} | _ABOUT
    return object_of(" ".join(described), **described)


POSTS: dict[str, tuple[str, str, Schema, Schema]] = {
    "/v1/query/funnel": (
        "Count who takes one step after the other",
        "query",
        schema_of(funnel.FunnelRequest),
        _answer(steps=list[funnel.Step], groups=list[funnel.Group], window_ms=int),
    ),
    "/v1/query/retention": (
        "Count who of those that began in a day, week or month came back",
        "query",
        schema_of(retention.RetentionRequest),
        _answer(cohorts=list[retention.Cohort], total=retention.Total, groups=list[retention.Group]),
    ),
}
