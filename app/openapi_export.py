"""The OpenAPI description of exports (`app.export`). Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.export_request import MEDIA_TYPES, Compression, Format
from app.openapi_schema import INTEGER, TEXT, object_of

PATH = "/v1/export"
_HEADERS: dict[str, Schema] = {
    "x-eventbunker-event-count": {"description": "How many events follow", "schema": INTEGER},
    "x-eventbunker-recorded-up-to": {
        "description": "Unix ms; later events are in none of the pages",
        "schema": INTEGER,
    },
    "content-disposition": {"description": "A name for the file", "schema": TEXT},
}


def operation(filters: Schema, time_period: Schema) -> tuple[str, str, Schema, Schema]:
    """Summary, key, request and answer; `filters` and `time_period` are those of a query."""
    return (
        "Export events of any number as a file; the answer is streamed",
        "query",
        object_of(
            "time_period",
            filters=filters,
            time_period=time_period,
            timezone={"type": "string", "default": "UTC", "description": "IANA name"},
            format={
                "enum": [one.value for one in Format],
                "description": "Default: as Accept says, else ndjson",
            },
            compression={"enum": [one.value for one in Compression], "default": "none"},
        ),
        TEXT,
    )


def responses() -> dict[str, Schema]:
    """The 200."""
    binary: Schema = {"type": "string", "format": "binary"}
    return {
        "200": {
            "description": "The file. What is cut off has no end: no last chunk, no footer",
            "headers": _HEADERS,
            "content": {name: {"schema": binary} for name in MEDIA_TYPES.values()},
        }
    }
