"""What `/openapi.json` says of `POST /batch`. Pure."""

from __future__ import annotations

from app.event_schema import EVENT_SCHEMA, Schema
from app.openapi_schema import INTEGER, TEXT, object_of

PATH = "/batch"
_EVENTS: Schema = {"type": "array", "minItems": 1, "maxItems": 10_000, "items": EVENT_SCHEMA}
REQUEST: Schema = {
    "anyOf": [_EVENTS, object_of("batch", batch=_EVENTS)],
    "description": "Events, or an object around them, whose other members are ignored. NDJSON is taken too.",
}
ANSWER: Schema = object_of(
    "accepted rejected time_recorded request_id errors",
    accepted=INTEGER,
    rejected=INTEGER,
    time_recorded={"type": "integer", "description": "Unix milliseconds"},
    request_id={
        "type": "string",
        "pattern": "^[0-9a-f]{24}$",
        "description": "Followed by index + 1 as 8 hex digits it is the unique_req_id of an event",
    },
    errors={
        "type": "array",
        "description": "At least one for each rejected event, in the order of the batch",
        "items": object_of("index code path message", index=INTEGER, code=TEXT, path=TEXT, message=TEXT),
    },
)
ENCODING: Schema = {
    "name": "Content-Encoding",
    "in": "header",
    "description": "gzip, deflate or zstd; gzip is also recognised without it.",
    "schema": {"enum": ["gzip", "deflate", "zstd", "identity"]},
}
