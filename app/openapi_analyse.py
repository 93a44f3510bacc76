"""The OpenAPI description of analyses and usage (`app.analyse`, `app.manage_usage`): their types. Pure."""

from __future__ import annotations

from app.cohorts import RetentionAnswer, RetentionRequest
from app.funnel import FunnelAnswer, FunnelRequest
from app.openapi_schema import Described
from app.seen_fields import FieldsAnswer, FieldsRequest
from app.timeline import TimelineAnswer, TimelineRequest
from app.usage import UsageAnswer, UsageRequest

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
    "/v1/query/timeline": (
        "One customer's events in the order of time", "query", TimelineRequest, TimelineAnswer,
    ),
    "/v1/query/fields": (
        "List event names and fields with types, counts and examples", "query", FieldsRequest, FieldsAnswer,
    ),
    "/v1/manage/usage": (
        "Count stored events by day and event name", "apikey", UsageRequest, UsageAnswer,
    ),
}  # fmt: skip
