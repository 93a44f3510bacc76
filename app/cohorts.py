"""Retention: of those who began in a day, week or month, how many came back in each one after. Pure.

A customer belongs to the cohort in which their first event of `first` within the time period lies, and came
back in a later period (or the same: offset 0) by any later event of `returning`. "Later" is the order of
`event_time`, and of arrival where that is equal. Returns are followed beyond the time period, up to the
present; a period that has not ended yet is null, not 0.
Next reader: `app.sql_cohorts`, which says the same in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, tzinfo
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.analysis import About, By, EventsRequest, GroupNames, problems_together, read_analysis, to_events
from app.answer import zoned
from app.days import begin_ms, date_at, number_of, numbered
from app.errors import Problem, invalid_body
from app.fields import Field, resolve
from app.filters import Condition, to_conditions
from app.query_request import PeriodRequest
from app.time_period import Period, read_zone

MAX_OFFSETS, DEFAULT_OFFSETS = 100, 8
MAX_COHORTS = 400
DEFAULT_GROUPS, MAX_GROUPS = 20, 100
Length = Literal["day", "week", "month"]
_MONDAY = 3  # days from a Monday to 1970-01-01


class RetentionRequest(PeriodRequest, frozen=True, kw_only=True):
    """Who of those that began in a day, week or month came back in the ones after."""

    first: Annotated[EventsRequest, Meta(description="What begins a customer.")]
    returning: (
        Annotated[EventsRequest, Meta(description="What counts as coming back; else what `first` is.")]
        | UnsetType
    ) = UNSET
    group_by_time: Annotated[Length, Meta(description="The length of a cohort and of a period after it.")] = (
        "day"
    )
    periods: Annotated[
        int, Meta(description="How many periods after the first are followed.", ge=1, le=MAX_OFFSETS)
    ] = DEFAULT_OFFSETS
    new_only: Annotated[
        bool, Meta(description="Without customers who had such an event before the time period.")
    ] = False
    by: By = "customer_identifier"
    group_by: Annotated[
        GroupNames, Meta(description="One field: what it was at the customer's first event.", max_length=1)
    ] = ()
    limit: Annotated[int, Meta(description="The largest number of groups.", ge=1, le=MAX_GROUPS)] = (
        DEFAULT_GROUPS
    )


class Retention(msgspec.Struct, frozen=True):
    """A checked request. `followed`: the time period, and as long after as someone may come back.

    `new_only`: without those who had an event of `first` before the time period. `limit`: groups.
    """

    period: Period
    followed: Period
    timezone: str
    length: Length
    offsets: int  # 0 to this one
    first: tuple[Condition, ...]
    returning: tuple[Condition, ...]
    filters: tuple[Condition, ...]
    new_only: bool
    by: Field
    group_by: tuple[Field, ...]
    limit: int
    now_ms: int


class Cohort(msgspec.Struct, frozen=True):
    """`size` customers who began at `cohort` (its start, with the zone's offset). By offset: how many came
    back, and their share; null for a period that has not ended, and for a share of nobody."""

    cohort: str
    size: int
    returned: list[int | None]
    rates: list[float | None]


class CohortTotal(msgspec.Struct, frozen=True):
    """All cohorts together: by offset, the customers of those cohorts for which it has ended, and how many of
    them came back."""

    sizes: list[int]
    returned: list[int]
    rates: list[float | None]


class Table(msgspec.Struct, frozen=True):
    cohorts: list[Cohort]
    total: CohortTotal


class RetentionGroup(Table, frozen=True):
    """The customers whose first event has this value."""

    group: dict[str, msgspec.Raw | None]


class RetentionAnswer(About, frozen=True, kw_only=True):
    """`cohorts` and `total`: everybody. `groups`: the largest ones."""

    cohorts: list[Cohort]
    total: CohortTotal
    groups: list[RetentionGroup]


def read_retention(body: bytes, now_ms: int) -> Retention:
    """The request in `body`. Errors: ApiError 400 that names every problem."""
    asked, period = read_analysis(body, RetentionRequest, now_ms)
    first, filters = to_events(asked.first), to_conditions(asked.filters)
    returning = first if asked.returning is UNSET else to_events(asked.returning)
    problems = problems_together((first, returning, filters))
    length, zone = asked.group_by_time, read_zone(asked.timezone)
    begins, last = index_of(period.start_ms, length, zone), index_of(period.end_ms - 1, length, zone)
    if (cohorts := last - begins + 1) > MAX_COHORTS:
        message = f"at most {MAX_COHORTS} cohorts; this has {cohorts}: take a longer group_by_time"
        problems.append(Problem("$.time_period", message))
    if problems:
        raise invalid_body(problems)
    # No return after the present is counted, whatever the clock of the event said.
    until = min(start_of(last + asked.periods + 1, length, zone), now_ms + 1)
    return Retention(
        period=period,
        followed=Period(period.start_ms, max(period.end_ms, until)),
        timezone=asked.timezone,
        length=length,
        offsets=asked.periods,
        first=first,
        returning=returning,
        filters=filters,
        new_only=asked.new_only,
        by=resolve(asked.by),
        group_by=tuple(map(resolve, asked.group_by)),
        limit=asked.limit,
        now_ms=now_ms,
    )


def index_of(moment_ms: int, length: Length, zone: tzinfo) -> int:
    """The number of the day, week or month in which the moment lies in `zone`; as in `app.sql_cohorts`."""
    day = date_at(moment_ms, zone)
    if length == "month":
        return day.year * 12 + day.month - 1
    days = number_of(day)
    return days if length == "day" else (days + _MONDAY) // 7


def start_of(index: int, length: Length, zone: tzinfo) -> int:
    """Unix milliseconds of the beginning of that day, week or month."""
    if length == "month":
        day = date(index // 12, index % 12 + 1, 1)
    else:
        day = numbered(index if length == "day" else index * 7 - _MONDAY)
    return begin_ms(day, zone)


def tables(asked: Retention, rows: Sequence[Sequence[Any]]) -> tuple[Table, list[RetentionGroup]]:
    """What `app.sql_cohorts`'s statement returned: everybody together, and each group."""
    zone = read_zone(asked.timezone)
    indexes = range(
        index_of(asked.period.start_ms, asked.length, zone),
        index_of(asked.period.end_ms - 1, asked.length, zone) + 1,
    )
    everybody: dict[int, tuple[int, dict[int, int]]] = {}
    groups: dict[str | None, dict[int, tuple[int, dict[int, int]]]] = {}
    for is_total, value, cohort, size, (offsets, counts) in rows:
        found = size, dict(zip(offsets, counts, strict=True))
        if is_total:
            everybody[cohort] = found
        else:
            groups.setdefault(value, {})[cohort] = found
    name = asked.group_by[0].name if asked.group_by else ""
    return _table(asked, everybody, indexes, zone), [
        RetentionGroup(
            **msgspec.structs.asdict(_table(asked, found, sorted(found), zone)),
            group={name: None if value is None else msgspec.Raw(value.encode())},
        )
        for value, found in groups.items()
    ]


def _table(
    asked: Retention, found: Mapping[int, tuple[int, dict[int, int]]], indexes: Sequence[int], zone: tzinfo
) -> Table:
    cohorts = []
    width = asked.offsets + 1
    sizes, sums = [0] * width, [0] * width
    present = index_of(asked.now_ms, asked.length, zone)
    for index in indexes:
        size, counts = found.get(index, (0, {}))
        # Most are 0, of what may be millions: only the others are looked at one by one.
        ended = min(max(present - index, 0), width)
        not_yet = [None] * (width - ended)
        returned, rates = [0] * ended, [0.0 if size else None] * ended
        for offset, count in counts.items():
            if offset < ended:
                returned[offset] = count
                rates[offset] = count / size
                sums[offset] += count
        for offset in range(ended):
            sizes[offset] += size
        moment = zoned(start_of(index, asked.length, zone), zone)
        cohorts.append(Cohort(moment, size, [*returned, *not_yet], [*rates, *not_yet]))
    shares = [count / size if size else None for count, size in zip(sums, sizes, strict=True)]
    return Table(cohorts, CohortTotal(sizes, sums, shares))
