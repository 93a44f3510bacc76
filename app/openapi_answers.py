"""What `/openapi.json` says of the formats in which a query is answered. Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.formats import Format
from app.openapi_schema import INTEGER, TEXT

PATH = "/v1/query/json"
_HEADERS: dict[str, Schema] = {
    "x-eventbunker-fresh-as-of": {"description": "As `fresh_as_of` of JSON", "schema": INTEGER},
    "x-eventbunker-row-count": {"description": "As `row_count` of JSON", "schema": INTEGER},
    "x-eventbunker-next": {"description": "As `next` of JSON, where there is one", "schema": TEXT},
    "x-eventbunker-time-period": {"description": "start/end, as `time_period` of JSON", "schema": TEXT},
}


def responses(answer: Schema) -> dict[str, Schema]:
    """The 200 of a query whose JSON is `answer`. The headers come with CSV and NDJSON only."""
    schemas = {Format.JSON: answer, Format.NDJSON: TEXT, Format.CSV: TEXT}
    return {
        "200": {
            "description": "The answer, in the format that `Accept` likes best. `text/csv; formulas=escaped`"
            " puts an apostrophe before text that a spreadsheet would execute",
            "headers": _HEADERS,
            "content": {one.value: {"schema": schema} for one, schema in schemas.items()},
        }
    }
