"""The OpenAPI description of the calls on dead letters (`app.manage_dead`). Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.openapi_schema import INTEGER, TEXT, UNIQUE_REQ_ID, object_of, or_null

_PROJECT: dict[str, Schema] = {"project_id": TEXT}
_FILTERS: dict[str, Schema] = {
    "reason": {"type": "string", "maxLength": 200, "description": "A part of the reason, in any case"},
    "since": {"type": "string", "description": "Set aside at this time or later; as an event's timestamp"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "cursor": or_null({"type": "string", "description": "Of the page before"}),
}
_CHOICE: dict[str, Schema] = {
    "unique_req_ids": {"type": "array", "items": UNIQUE_REQ_ID, "maxItems": 1000},
    "all": {"type": "boolean", "description": "All that the filters admit, a page at a time"},
}
_CURSOR: Schema = or_null({"type": "string", "description": "Of the next page; null on the last"})
_LETTER: dict[str, Schema] = {
    "unique_req_id": or_null(UNIQUE_REQ_ID),
    "place": {"type": "string", "description": "Partition and id in the stream of dead letters"},
    "project_id": or_null(TEXT),
    "reason": {"type": "string", "description": "The kind of fault"},
    "message": {"type": "string", "description": "The message of whoever found it"},
    "set_aside_at": INTEGER,
    "time_recorded": or_null(INTEGER),
    "events": INTEGER,
    "bytes": INTEGER,
}
_REFUSED: Schema = object_of("unique_req_id detail", unique_req_id=UNIQUE_REQ_ID, detail=TEXT)
_NAMES: Schema = {"type": "array", "items": UNIQUE_REQ_ID}

POSTS: dict[str, tuple[str, str, Schema, Schema]] = {
    "/v1/manage/dead/list": (
        "List the project's dead letters",
        "apikey",
        object_of("project_id", **_PROJECT, **_FILTERS),
        object_of(
            "dead_letters cursor",
            dead_letters={"type": "array", "items": object_of(" ".join(_LETTER), **_LETTER)},
            cursor=_CURSOR,
        ),
    ),
    "/v1/manage/dead/show": (
        "Show a dead letter with the client's bytes, as `body` or, where not UTF-8, `body_base64`",
        "apikey",
        object_of("project_id unique_req_id", **_PROJECT, unique_req_id=UNIQUE_REQ_ID),
        object_of(
            " ".join(_LETTER),
            **_LETTER,
            **dict.fromkeys(("user_agent", "referer", "body", "body_base64"), TEXT),
        ),
    ),
    "/v1/manage/dead/replay": (
        "Put dead letters back into the stream",
        "apikey",
        object_of("project_id", **_PROJECT, **_FILTERS, **_CHOICE),
        object_of(
            "project_id replayed refused not_found cursor",
            **_PROJECT,
            replayed=INTEGER,
            refused={"type": "array", "items": _REFUSED},
            not_found=_NAMES,
            cursor=_CURSOR,
        ),
    ),
    "/v1/manage/dead/purge": (
        "Give dead letters up",
        "apikey",
        object_of("project_id", **_PROJECT, **_FILTERS, **_CHOICE),
        object_of(
            "project_id purged not_found cursor",
            **_PROJECT, purged=INTEGER, not_found=_NAMES, cursor=_CURSOR,
        ),
    ),
}  # fmt: skip
