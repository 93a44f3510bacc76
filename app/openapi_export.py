"""The OpenAPI description of exports (`app.export`). Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.export_request import MEDIA_TYPES, ExportRequest
from app.openapi_schema import INTEGER, TEXT, Described

PATH = "/v1/export"
_HEADERS: dict[str, Schema] = {
    "x-eventbunker-event-count": {"description": "How many events follow", "schema": INTEGER},
    "x-eventbunker-recorded-up-to": {
        "description": "Unix ms; later events are in none of the pages. Absent while Redis is away and has"
        " told this edge nothing since its start: then no export can go on from this one",
        "schema": INTEGER,
    },
    "content-disposition": {"description": "A name for the file", "schema": TEXT},
}


# Summary, key, request and answer.
OPERATION: tuple[str, str, Described, Described] = (
    "Export events of any number as a file; the answer is streamed",
    "query",
    ExportRequest,
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
