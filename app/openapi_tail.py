"""The OpenAPI description of the tail (`app.tail`). Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.openapi_schema import TEXT

PATH = "/v1/tail"


def operation(failure: Schema) -> Schema:
    """The whole of it; `failure` describes every error."""
    return {
        "summary": "Events as they arrive, as server-sent events; the answer has no end",
        "security": [{"query": []}],
        "parameters": [
            {
                "name": "filters",
                "in": "query",
                "description": "As in a query; all must hold",
                "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}},
            },
            _equals("event_name"),
            _equals("customer_identifier"),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the last message that came: go on behind it",
                "schema": TEXT,
            },
        ],
        "responses": {
            "200": {
                "description": "Messages without a name are events; others are open, dropped and end",
                "content": {"text/event-stream": {"schema": TEXT}},
            },
            "default": failure,
        },
    }


def _equals(name: str) -> Schema:
    return {"name": name, "in": "query", "schema": {"type": "string", "minLength": 1}}
