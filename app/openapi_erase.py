"""The OpenAPI description of erasing (`app.erase`). Pure."""

from __future__ import annotations

from app.erase_request import CURSOR
from app.event_schema import Schema
from app.openapi_schema import INTEGER, TEXT, object_of, or_null

_MOMENT: Schema = {"type": "integer", "description": "Unix milliseconds"}
_COUNT: Schema = or_null({"type": "integer", "description": "null where nobody has counted yet"})
_STATE: Schema = {"enum": ["pending", "done", "dry_run"]}
REPORT: Schema = object_of(
    "erasure_id state asked_at up_to matched counted charts remaining done_at",
    erasure_id=TEXT,
    state=_STATE,
    asked_at=_MOMENT,
    up_to=_MOMENT,
    customers=or_null({"type": "integer", "description": "How many were named; null: whomever"}),
    time_period=or_null(object_of("start end", start=_MOMENT, end=_MOMENT)),
    filters=INTEGER,
    matched=INTEGER,
    counted=object_of("store stream dead_letters", store=INTEGER, stream=INTEGER, dead_letters=INTEGER),
    charts={"type": "integer", "description": "Tokens of charts that named a customer, revoked"},
    remaining=object_of(
        "store stream dead_letters spools files unreadable",
        **dict.fromkeys(("store", "stream", "dead_letters", "spools", "files", "unreadable"), _COUNT),
    ),
    rows_gone_at=or_null(_MOMENT),
    verified_at=or_null(_MOMENT),
    redis_file={"enum": ["", "rewritten", "not allowed", "not used"]},
    done_at=or_null(_MOMENT),
)


def posts(filters: Schema, time_period: Schema) -> dict[str, tuple[str, str, Schema, Schema]]:
    """The calls; `filters` and `time_period` are those of a query."""
    return {
        "/v1/delete/events": (
            "Erase events; no query sees them from the answer on",
            "delete",
            object_of(
                "",
                filters=filters,
                time_period=time_period,
                timezone={"type": "string", "default": "UTC", "description": "IANA name"},
                dry_run={"type": "boolean", "description": "Count, and erase nothing"},
            ),
            object_of(
                "erasure_id matched state",
                erasure_id=or_null(TEXT), matched=INTEGER, state=_STATE, up_to=_MOMENT,
            ),
        ),
        "/v1/delete/status": (
            "How far an erasure is, or all of the project's, newest first",
            "delete",
            object_of(
                "",
                erasure_id=TEXT,
                limit={"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                cursor=or_null(
                    {"type": "string", "pattern": f"^{CURSOR}$", "description": "Of the page before"}
                ),
            ),
            {
                "anyOf": [
                    REPORT,
                    object_of(
                        "erasures cursor", erasures={"type": "array", "items": REPORT}, cursor=or_null(TEXT)
                    ),
                ]
            },
        ),
    }  # fmt: skip
