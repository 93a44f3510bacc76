"""The OpenAPI description of charts and of the tokens that embed them (`app.iframe`). Pure."""

from __future__ import annotations

from typing import cast

from app.chart_request import ChartRequest, ListTokens, RevokeTokens, TokenRequest
from app.embed_token import CHARACTERS
from app.event_schema import Schema
from app.openapi_schema import INTEGER, TEXT, Described, object_of, or_null, schema_of

PATH = "/v1/query/iframe"
_DESCRIBED: dict[str, Schema] = {
    "token_id": {"type": "string", "pattern": "^cht_[0-9a-f]{16}$"},
    "title": TEXT,
    "type": TEXT,
    "created_at": {"type": "integer", "description": "Unix milliseconds"},
    "expires_at": {"type": "string", "description": "ISO 8601 in UTC"},
    "allowed_origins": {"type": "array", "items": TEXT},
}
_SECRET: dict[str, Schema] = {
    "token": {"type": "string", "minLength": CHARACTERS, "maxLength": CHARACTERS},
    "path": {"type": "string", "description": "Of the page, behind the address of this service"},
}
_PAGE: Schema = {"description": "One self-contained page", "content": {"text/html": {"schema": TEXT}}}

# path: (summary, key scheme, request, answer)
POSTS: dict[str, tuple[str, str, Described, Described]] = {
    f"{PATH}/token": (
        "Make a token that embeds this chart",
        "query",
        TokenRequest,
        object_of(" ".join(_DESCRIBED | _SECRET), **_DESCRIBED, **_SECRET),
    ),
    f"{PATH}/token/list": (
        "List the live tokens that this key made",
        "query",
        ListTokens,
        object_of(
            "tokens cursor",
            tokens={"type": "array", "items": object_of(" ".join(_DESCRIBED), **_DESCRIBED)},
            cursor=or_null(TEXT),
        ),
    ),
    f"{PATH}/token/revoke": (
        "Revoke tokens that this key made",
        "query",
        RevokeTokens,
        object_of("revoked", revoked=INTEGER),
    ),
}


def page(failure: Schema) -> Schema:
    """What `PATH` answers; `failure` is that of all endpoints."""
    in_browsers = {**cast(Schema, failure["content"]), "text/html": {"schema": TEXT}}
    token = {
        "name": "token",
        "in": "query",
        "required": True,
        "description": f"Of {PATH}/token",
        "schema": TEXT,
    }
    return {
        "post": {
            "summary": "Draw the answer of a query as a page with a chart",
            "security": [{"query": []}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema_of(ChartRequest)}},
            },
            "responses": {"200": _PAGE, "default": failure},
        },
        "get": {
            "summary": "The chart that a token stands for, as a page to embed",
            "parameters": [token],
            "responses": {"200": _PAGE, "default": {**failure, "content": in_browsers}},
        },
    }
