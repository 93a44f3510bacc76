"""One customer's events, page by page, and their sessions. Request and answer; pure.

The events are those of a query for raw events (`app.query`), whose answer and cursor are taken as they are;
this module decides whose they are and in which order. A session ends where nothing came for a while.
Next reader: `app.sql_timeline`, for the sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.analysis import About
from app.errors import Problem
from app.filters import FilterRequest
from app.operators import Op
from app.query import Query, to_query
from app.query_request import MAX_CURSOR_CHARACTERS, MAX_LIMIT, OrderRequest, PeriodRequest, QueryRequest
from app.request import read_members
from app.time_period import Period
from app.timestamp import format_timestamp

DEFAULT_LIMIT = 100
MAX_SESSIONS = 1000
MAX_GAP_MINUTES = 7 * 24 * 60
# As they arrived, also within one batch. A query of its own has the newest first.
_OLDEST_FIRST = tuple(OrderRequest(name, "ASC") for name in ("event_time", "time_recorded", "unique_req_id"))


class TimelineRequest(PeriodRequest, frozen=True, kw_only=True):
    """One customer's events, in the order of time."""

    customer_identifier: (
        Annotated[
            str,
            Meta(
                description="Required unless the key is bound to a customer, who is then meant in any case.",
                min_length=1,
                max_length=256,
            ),
        ]
        | UnsetType
    ) = UNSET
    order: Annotated[Literal["newest_first", "oldest_first"], Meta(description="Which come first.")] = (
        "newest_first"
    )
    limit: Annotated[int, Meta(description="The largest number of events.", ge=1, le=MAX_LIMIT)] = (
        DEFAULT_LIMIT
    )
    cursor: (
        Annotated[
            Annotated[str, Meta(min_length=1, max_length=MAX_CURSOR_CHARACTERS)] | None,
            Meta(description="`next` of the answer before, for the events that follow it; null begins."),
        ]
        | UnsetType
    ) = UNSET
    session_gap_minutes: (
        Annotated[
            int,
            Meta(
                description="Answer with sessions too, which end where nothing came for longer than this.",
                ge=1,
                le=MAX_GAP_MINUTES,
            ),
        ]
        | UnsetType
    ) = UNSET


class Timeline(msgspec.Struct, frozen=True):
    """A checked request: a page of raw events; `gap_ms` is None where no sessions are asked for."""

    query: Query
    gap_ms: int | None

    @property
    def period(self) -> Period:
        """Which the cursor keeps from page to page."""
        return self.query.period


class Session(msgspec.Struct, frozen=True):
    """From its first event to its last (ISO 8601 in UTC)."""

    start: str
    end: str
    duration_ms: int
    event_count: int


class TimelineAnswer(About, frozen=True, kw_only=True):
    """`data`: events as of a query. `next`: the cursor of the page that follows, null behind the last one.

    Where they are asked for, `sessions`: of all events in the time period, on every page the same; the newest
    1000, and `session_count`, how many there are.
    """

    data: list[dict[str, Any]]
    row_count: int
    next: str | None
    sessions: list[Session] | UnsetType = UNSET
    session_count: int | UnsetType = UNSET


def read_timeline(body: bytes, now_ms: int, bound_to: str | None) -> Timeline:
    """The request in `body`; `bound_to` is the customer to whom the key is bound. Errors: ApiError 400 that
    names every problem."""
    asked, problems = read_members(body, TimelineRequest)
    filters = asked.filters
    if bound_to is None and asked.customer_identifier is UNSET:
        if not any(problem.path == "$.customer_identifier" for problem in problems):
            message = "required, since the key is bound to no customer: whose events?"
            problems.append(Problem("$.customer_identifier", message))
    elif bound_to is None:
        of_customer = FilterRequest("customer_identifier", Op.EQUALS, asked.customer_identifier)
        filters = (of_customer, *filters)
    page = QueryRequest(
        time_period=asked.time_period,
        timezone=asked.timezone,
        filters=filters,
        order_by=_OLDEST_FIRST if asked.order == "oldest_first" else (),
        limit=asked.limit,
        cursor=asked.cursor,
    )
    gap = asked.session_gap_minutes
    return Timeline(to_query(page, now_ms, problems), None if gap is UNSET else gap * 60_000)


def sessions(rows: Sequence[Sequence[Any]]) -> list[Session]:
    """What `app.sql_timeline`'s statement returned."""
    return [
        Session(format_timestamp(start), format_timestamp(end), end - start, count)
        for start, end, count in rows
    ]
