"""The JSON Schema of an event, served at `/example_event_body.json`. Pure.

Built from the constants that `app.event` enforces, so that the two cannot drift apart; a property test
compares their verdicts. Three rules have no words in JSON Schema and stand in descriptions: sizes in
bytes, repeated names, and integers beyond 64 bits written without an exponent.
"""

from __future__ import annotations

from typing import TypeAlias

from app.event import (
    EVENT_NAME,
    FIELD_NAME,
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_FIELDS,
    MAX_STRING_BYTES,
    PREDEFINED_STRINGS,
    RESERVED,
)

Schema: TypeAlias = dict[str, object]

_STRING: Schema = {"type": "string", "maxLength": MAX_STRING_BYTES}
_NUMBER: Schema = {
    "type": "number",
    "description": "Integers from -2^63 to 2^64-1; larger ones with an exponent, or as strings.",
}
_BOOLEAN: Schema = {"type": "boolean"}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items, "maxItems": MAX_ARRAY_ITEMS}


_LEAF: Schema = {
    "anyOf": [
        _STRING,
        _NUMBER,
        _BOOLEAN,
        {"type": "null"},
        _array(_STRING),
        _array(_NUMBER),
        _array(_BOOLEAN),
    ]
}
_NAMES: Schema = {"pattern": f"^{FIELD_NAME.pattern}$"}

EVENT_SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Event",
    "description": (
        "One event, at most 64 KiB. Strings have at most 8 KiB as UTF-8; no name stands twice in one object."
    ),
    "type": "object",
    "required": ["event_name"],
    "maxProperties": MAX_FIELDS,
    "propertyNames": {"allOf": [_NAMES, {"not": {"enum": sorted(RESERVED)}}]},
    "properties": {
        "event_name": {"type": "string", "pattern": f"^{EVENT_NAME.pattern}$"},
        "timestamp": {
            "type": "string",
            "description": (
                "When it happened: ISO 8601 date or date-time, or RFC 2822; UTC without an offset; years "
                "1970 to 2100; by default the time at which it is received."
            ),
        },
        "customer_identifier": {"type": "string", "minLength": 1, "maxLength": MAX_CUSTOMER_CHARACTERS},
        "event_id": {"type": "string", "minLength": 1, "maxLength": MAX_EVENT_ID_CHARACTERS},
        "metric_name": _STRING,
        "metric_value": _NUMBER,
        **dict.fromkeys(PREDEFINED_STRINGS, _STRING),
    },
    "additionalProperties": {
        "anyOf": [
            *_LEAF["anyOf"],  # type: ignore[misc]
            {
                "type": "object",
                "propertyNames": _NAMES,
                "additionalProperties": _LEAF,
                "description": "One level; its members are queried as parent.child.",
            },
        ]
    },
    "examples": [
        {
            "event_name": "my_first_event_name",
            "timestamp": "2021-06-26T14:48:00.000Z",
            "customer_identifier": "your_app_customer_id",
            "example_string_field": "abc.com",
            "example_number_field": 123,
            "example_array_field": ["cat", "dog"],
            "example_bool_field": True,
            "example_object_field": {"plan": "pro"},
        }
    ],
}
