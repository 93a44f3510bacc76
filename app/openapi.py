"""The OpenAPI 3.1 description, served at `/openapi.json`. Pure; a test compares it with the routes.

Bodies of answers are described where a client would generate code from them; every error has the one
shape of `app.errors`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

from app import openapi_answers, openapi_batch, openapi_charts, openapi_export, openapi_receipt, openapi_tail
from app.chart_request import ChartRequest
from app.errors import Kind
from app.event_schema import EVENT_SCHEMA, Schema
from app.filters import Filters
from app.openapi_analyse import POSTS as _ANALYSE_POSTS
from app.openapi_dead import POSTS as _DEAD_POSTS
from app.openapi_erase import REPORT as _ERASURE
from app.openapi_erase import posts as _erase_posts
from app.openapi_schema import INTEGER as _INTEGER
from app.openapi_schema import TEXT as _TEXT
from app.openapi_schema import Described, components, described, or_null, schema_of
from app.openapi_schema import object_of as _object
from app.query_request import QueryRequest
from app.time_period import TimePeriod

_ANSWER: Schema = _object(
    "data row_count time_period elapsed_ms fresh_as_of",
    data={"type": "array", "items": {"type": "object"}},
    row_count=_INTEGER,
    time_period=_object("start end", start=_TEXT, end=_TEXT),
    elapsed_ms={"type": "number"},
    fresh_as_of={
        "type": "integer",
        "description": "Unix ms up to which every event that arrived is included",
    },
    next={
        **or_null(_TEXT),
        "description": "Of raw events alone: the `cursor` to ask for those that follow; null behind the last",
    },
)
_TRACKED: Schema = _object(
    "unique_req_id time_recorded",
    unique_req_id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
    time_recorded={"type": "integer", "description": "Unix milliseconds"},
)
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The event's id for clients that cannot set event_id, quoted or bare.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 258, "pattern": "^[ -~]+$"},
}
_NAMES: Schema = {"type": "array", "items": _TEXT}
_PROJECT_ID = {"project_id": _TEXT}
_ACCOUNT_ID = {"account_id": _TEXT}
_OPTIONAL_NAME = {
    "name": {"type": "string", "maxLength": 100},
    "description": {"type": "string", "maxLength": 1000},
}

# path: (summary, key scheme, request, answer)
_POSTS: dict[str, tuple[str, str, Described, Described]] = {
    "/post": ("Track one event", "write", EVENT_SCHEMA, _TRACKED),
    openapi_batch.PATH: ("Track many events", "write", openapi_batch.REQUEST, openapi_batch.ANSWER),
    "/v1/query/json": ("Ask a question of the events", "query", QueryRequest, _ANSWER),
    openapi_export.PATH: openapi_export.OPERATION,
    **openapi_charts.POSTS,
    "/v1/manage/project/create": (
        "Create a project",
        "apikey",
        _object("account_id name", **_ACCOUNT_ID, **_OPTIONAL_NAME),
        _object("account_id project_id master_api_key status", **_ACCOUNT_ID, **_PROJECT_ID),
    ),
    "/v1/manage/project/list": (
        "List the account's projects", "apikey", _object("account_id", **_ACCOUNT_ID), _object("projects"),
    ),
    "/v1/manage/project/reset_master_key": (
        "Replace a project's master key",
        "apikey",
        _object("account_id project_id", **_ACCOUNT_ID, **_PROJECT_ID),
        _object("master_api_key"),
    ),
    "/v1/manage/project/delete": (
        "Delete a project",
        "apikey",
        _object("account_id project_id", **_ACCOUNT_ID, **_PROJECT_ID),
        _object("status erasure_id", erasure_id=_TEXT),
    ),
    "/v1/manage/project/erasure": (
        "How far the erasure of a deleted project is",
        "apikey",
        _object("account_id project_id", **_ACCOUNT_ID, **_PROJECT_ID),
        _ERASURE,
    ),
    "/v1/manage/apikey/create": (
        "Create a key",
        "apikey",
        _object(
            "project_id key_type",
            **_PROJECT_ID,
            **_OPTIONAL_NAME,
            key_type={"enum": ["WRITE", "QUERY", "DELETE"]},
            key_filter_data=_object("customer_identifier", customer_identifier=_TEXT),
            expires_at=_TEXT,
            rate_limit={"type": "integer", "minimum": 1},
            allow_client_context={"type": "boolean"},
        ),
        _object("project_id api_key_id api_key key_type status"),
    ),
    "/v1/manage/apikey/list": (
        "List the project's keys",
        "apikey",
        _object("project_id", **_PROJECT_ID, limit=_INTEGER, cursor=or_null(_TEXT)),
        _object("api_keys"),
    ),
    "/v1/manage/apikey/delete": (
        "Revoke a key, by its id or by itself",
        "apikey",
        _object("project_id", **_PROJECT_ID, api_key_id=_TEXT, api_key=_TEXT),
        _object("status"),
    ),
    "/v1/manage/name/list": (
        "List event names or field paths in use",
        "apikey",
        _object("project_id", **_PROJECT_ID, kind={"enum": ["event_name", "field_path"]}),
        _object("names"),
    ),
    "/v1/manage/name/delete": (
        "Free the places of names; stored events stay",
        "apikey",
        _object("project_id", **_PROJECT_ID, event_names=_NAMES, field_paths=_NAMES),
        _object("status"),
    ),
    **_ANALYSE_POSTS,
    **_DEAD_POSTS,
    **_erase_posts(schema_of(Filters), schema_of(TimePeriod)),
}  # fmt: skip
_UNREADY = "/readyz"  # the one GET that answers 503 in the form of its 200
_GETS: dict[str, tuple[str, str]] = {
    "/livez": ("Is the process alive?", "text/plain"),
    _UNREADY: (
        "Can this edge keep an event? `degraded` names failed checks; `?strict`: 503 if any; `?verbose`: all",
        "application/json",
    ),
    "/metrics": ("Prometheus metrics", "text/plain"),
    "/version": ("Name and version", "application/json"),
    "/openapi.json": ("This description", "application/json"),
    "/example_event_body.json": ("JSON Schema of an event", "application/json"),
    "/robots.txt": ("Nothing for crawlers", "text/plain"),
}
_SCHEMES = {
    "write": "x-eventbunker-write-key",
    "query": "x-eventbunker-query-key",
    "delete": "x-eventbunker-delete-key",
    "apikey": "x-eventbunker-apikey",
}
_ERROR: Schema = _object(
    "error code detail errors request_id",
    error={"enum": sorted({kind.value.error for kind in Kind})},
    code={"enum": sorted({kind.value.code for kind in Kind})},
    detail=_TEXT,
    errors={"type": "array", "items": _object("path message", path=_TEXT, message=_TEXT)},
    request_id=_TEXT,
)


@lru_cache(maxsize=1)
def openapi() -> Schema:
    """The whole description, as JSON."""
    paths: Schema = {path: {"post": _post(path, *parts)} for path, parts in _POSTS.items()}
    paths |= {path: {"get": _get(path, *parts)} for path, parts in _GETS.items()}
    paths[openapi_charts.PATH] = openapi_charts.page(_failure())
    paths[openapi_receipt.PATH] = {"get": _receipt()}
    paths[openapi_tail.PATH] = {"get": openapi_tail.operation(_failure())}
    schemes = {name: {"type": "apiKey", "in": "header", "name": header} for name, header in _SCHEMES.items()}
    schemes["write_in_url"] = {"type": "apiKey", "in": "query", "name": "write_key"}
    models = components([ChartRequest, *(part for _, _, *parts in _POSTS.values() for part in parts)])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventbunker",
            "version": version("eventbunker"),
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"securitySchemes": schemes, "schemas": {"Error": _ERROR, **models}},
    }


def _post(path: str, summary: str, scheme: str, request: Described, answer: Described) -> Schema:
    request, answer = described(request), described(answer)
    if path != "/post" and "properties" in request:  # an event has custom members, nothing else has
        request = {"additionalProperties": False, **request}
    responses = {"200": _content("application/json", answer), "default": _failure()}
    operation: Schema = {
        "summary": summary,
        "security": openapi_receipt.WRITE_SECURITY if scheme == "write" else [{scheme: []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": responses,
    }
    if path == "/post":
        operation["parameters"] = [openapi_receipt.ACK, _IDEMPOTENCY_KEY, openapi_batch.ENCODING]
        responses["202"] = _content("application/json", openapi_receipt.UNSEEN)
    if path == openapi_export.PATH:
        responses |= openapi_export.responses()
    if path == openapi_answers.PATH:
        responses |= openapi_answers.responses(answer)
    if path == openapi_batch.PATH:
        operation["parameters"] = [_IDEMPOTENCY_KEY, openapi_batch.ENCODING]
    return operation


def _receipt() -> Schema:
    return {
        "summary": "What became of an event",
        "security": openapi_receipt.WRITE_SECURITY,
        "parameters": [openapi_receipt.PARAMETER],
        "responses": {
            "200": _content("application/json", openapi_receipt.RECEIPT),
            "default": _failure(),
        },
    }


def _get(path: str, summary: str, media_type: str) -> Schema:
    responses: Schema = {"200": _content(media_type, {}), "default": _failure()}
    if path == _UNREADY:
        responses["503"] = _content(media_type, {})
    return {"summary": summary, "responses": responses}


def _content(media_type: str, schema: Schema) -> Schema:
    return {"description": "The answer", "content": {media_type: {"schema": schema}}}


def _failure() -> Schema:
    schema: Schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": "The one shape of every error",
        "content": {"application/json": {"schema": schema}},
    }
