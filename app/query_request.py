"""What a client may ask, as types: the one description of a query (api.md section 5).

`app.request` checks a body against them, /openapi.json publishes them, and the tables of docs/query.md are
made from them. What every reading request begins with is PeriodRequest, for others to build on.
Next reader: `app.query`, which makes a Query of a QueryRequest.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.computations import Computations
from app.errors import Problem
from app.fields import FieldName, Kind, resolve
from app.filters import Filters
from app.rules import Rule
from app.time_period import Period, TimePeriod, TimeZone, period_of, read_zone

MAX_GROUP_BY = 10
MAX_ORDER_BY = 20
DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET = 1000, 10_000, 1_000_000
MAX_CURSOR_CHARACTERS = 1000


class Bucket(enum.Enum):
    """Lengths of `group_by_time`; those from a day on follow the calendar of the query's time zone."""

    MINUTE = "minute"
    FIVE_MINUTES = "5_minutes"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


def _check_group(name: str) -> None:
    if resolve(name).kind is Kind.TIME:
        raise ValueError(f"`{name}` is a time; use group_by_time")


def _check_groups(names: tuple[str, ...]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"`{name}` is there twice")


class PeriodRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events are meant."""

    time_period: Annotated[TimePeriod, Meta(description="When the events took place.")]
    timezone: TimeZone = "UTC"
    filters: Filters = ()


def read_period_of(asked: PeriodRequest, now_ms: int, problems: list[Problem]) -> Period | None:
    """The period of any request that has one; None where it is among the `problems`, or is added to them."""
    if isinstance(asked.time_period, UnsetType):
        return None
    try:
        return period_of(asked.time_period, read_zone(asked.timezone), now_ms)
    except ValueError as error:
        problems.append(Problem("$.time_period", str(error)))
        return None


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One term of the order of the rows."""

    field_name: Annotated[
        str, Meta(description="An output column; where raw events are returned, any field.", max_length=300)
    ]
    direction: Annotated[Literal["ASC", "DESC"], Meta(description="Nulls are last in both directions.")] = (
        "ASC"
    )


class QueryRequest(PeriodRequest, frozen=True, kw_only=True):
    """A question of the events. Without `group_by`, `group_by_time` and `computations` it is answered with
    the events themselves, the newest first."""

    group_by: Annotated[
        tuple[Annotated[FieldName, Rule(_check_group)], ...],
        Meta(
            description="One row for each combination of values; at most 10 fields, none of them a time.",
            max_length=MAX_GROUP_BY,
        ),
        Rule(_check_groups),
    ] = ()
    group_by_time: (
        Annotated[Bucket, Meta(description="One row for each stretch of time, which begins at `event_time`.")]
        | UnsetType
    ) = UNSET
    fill: Annotated[bool, Meta(description="Rows for empty stretches too; needs `group_by_time`.")] = False
    computations: Computations = ()
    order_by: Annotated[
        tuple[OrderRequest, ...],
        Meta(description="The order of the rows; at most 20.", max_length=MAX_ORDER_BY),
    ] = ()
    limit: Annotated[int, Meta(description="The largest number of rows.", ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    offset: Annotated[int, Meta(description="Rows to leave out at the beginning.", ge=0, le=MAX_OFFSET)] = 0
    cursor: (
        Annotated[
            Annotated[str, Meta(min_length=1, max_length=MAX_CURSOR_CHARACTERS)] | None,
            Meta(description="`next` of the answer before, for the raw events that follow it; null begins."),
        ]
        | UnsetType
    ) = UNSET
