"""The OpenAPI description of the analyses (`app.analyse`): the types that read and write them. Pure."""

from __future__ import annotations

from app.cohorts import RetentionAnswer, RetentionRequest
from app.funnel import FunnelAnswer, FunnelRequest
from app.openapi_schema import Described
from app.seen_fields import FieldsAnswer, FieldsRequest

POSTS: dict[str, tuple[str, str, Described, Described]] = {
    "/v1/query/funnel": (
        "Count who takes one step after the other", "query", FunnelRequest, FunnelAnswer,
    ),
    "/v1/query/retention": (
        "Count who of those that began in a day, week or month came back",
        "query",
        RetentionRequest,
        RetentionAnswer,
    ),
    "/v1/query/fields": (
        "List event names and fields with types, counts and examples", "query", FieldsRequest, FieldsAnswer,
    ),
}  # fmt: skip
