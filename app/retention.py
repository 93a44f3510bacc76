"""Retention: of those who began in a day, week or month, how many came back in each one after. Pure.

A customer belongs to the cohort in which their first event of `first` within the time period lies, and came
back in a later period (or the same: offset 0) by any later event of `returning`. "Later" is the order of
`event_time`, and of arrival where that is equal. Returns are followed beyond the time period, up to the
present; a period that has not ended yet is null, not 0.
Next reader: `app.sql_retention`, which says the same in SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from app.analysis import AnalysisRequest, EventsRequest, FieldName, Reading
from app.errors import Problem
from app.fields import Field
from app.filters import Condition
from app.time_period import Period, read_zone

MAX_OFFSETS, DEFAULT_OFFSETS = 100, 8
MAX_COHORTS = 400
DEFAULT_GROUPS, MAX_GROUPS = 20, 100
Length = Literal["day", "week", "month"]
_EPOCH = date(1970, 1, 1)
_MONDAY = 3  # days from a Monday to 1970-01-01


class RetentionRequest(AnalysisRequest, frozen=True, kw_only=True):
    """`returning`: what counts as coming back, where not the same as `first`."""

    first: EventsRequest
    returning: EventsRequest | None = None
    group_by_time: Length = "day"
    periods: Annotated[int, Meta(ge=1, le=MAX_OFFSETS)] = DEFAULT_OFFSETS
    new_only: bool = False
    by: FieldName = "customer_identifier"
    group_by: Annotated[tuple[FieldName, ...], Meta(max_length=1)] = ()
    limit: Annotated[int, Meta(ge=1, le=MAX_GROUPS)] = DEFAULT_GROUPS


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


class Total(msgspec.Struct, frozen=True):
    """All cohorts together: by offset, the customers of those cohorts for which it has ended, and how many of
    them came back."""

    sizes: list[int]
    returned: list[int]
    rates: list[float | None]


class Table(msgspec.Struct, frozen=True):
    cohorts: list[Cohort]
    total: Total


class Group(Table, frozen=True):
    """The customers whose first event has this value."""

    group: dict[str, msgspec.Raw | None]


def read_retention(body: bytes, now_ms: int) -> Retention:
    """The request in `body`. Errors: ApiError 400 that names every problem."""
    reading = Reading(body, RetentionRequest, now_ms)
    value = reading.value
    first = reading.events(value.get("first"), "$.first")
    returning = first if value.get("returning") is None else reading.events(value["returning"], "$.returning")
    by = reading.field(value.get("by", "customer_identifier"), "$.by")
    group_by, filters = reading.grouped_by(1), reading.filters()
    length: Any = value.get("group_by_time", "day")
    zone, period = read_zone(reading.timezone), reading.period
    if not reading.problems:
        cohorts = index_of(period.end_ms - 1, length, zone) - index_of(period.start_ms, length, zone) + 1
        if cohorts > MAX_COHORTS:
            message = f"at most {MAX_COHORTS} cohorts; this has {cohorts}: take a longer group_by_time"
            reading.problems.append(Problem("$.time_period", message))
    reading.check()
    asked = msgspec.convert(value, RetentionRequest, strict=True)
    if by is None:  # said by `check`
        raise ValueError("by")
    last = index_of(period.end_ms - 1, length, zone) + asked.periods
    # No return after the present is counted, whatever the clock of the event said.
    until = max(period.end_ms, min(start_of(last + 1, length, zone), now_ms + 1))
    return Retention(
        period=period,
        followed=Period(period.start_ms, until),
        timezone=reading.timezone,
        length=length,
        offsets=asked.periods,
        first=first,
        returning=returning,
        filters=filters,
        new_only=asked.new_only,
        by=by,
        group_by=group_by,
        limit=asked.limit,
        now_ms=now_ms,
    )


def index_of(moment_ms: int, length: Length, zone: tzinfo) -> int:
    """The number of the day, week or month in which the moment lies in `zone`; as in `app.sql_retention`."""
    day = datetime.fromtimestamp(moment_ms // 1000, zone).date()
    if length == "month":
        return day.year * 12 + day.month - 1
    days = (day - _EPOCH).days
    return days if length == "day" else (days + _MONDAY) // 7


def start_of(index: int, length: Length, zone: tzinfo) -> int:
    """Unix milliseconds of the beginning of that day, week or month."""
    return int(_start(index, length, zone).timestamp()) * 1000


def _start(index: int, length: Length, zone: tzinfo) -> datetime:
    if length == "month":
        day = date(index // 12, index % 12 + 1, 1)
    else:
        day = _EPOCH + timedelta(days=index if length == "day" else index * 7 - _MONDAY)
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def tables(asked: Retention, rows: Sequence[Sequence[Any]]) -> tuple[Table, list[Group]]:
    """What `app.sql_retention`'s statement returned: everybody together, and each group."""
    zone = read_zone(asked.timezone)
    indexes = range(
        index_of(asked.period.start_ms, asked.length, zone),
        index_of(asked.period.end_ms - 1, asked.length, zone) + 1,
    )
    everybody: Mapping[int, tuple[int, dict[int, int]]] = {}
    groups: dict[str | None, dict[int, tuple[int, dict[int, int]]]] = {}
    for is_total, value, cohort, size, (offsets, counts) in rows:
        found = size, dict(zip(offsets, counts, strict=True))
        if is_total:
            everybody = {**everybody, cohort: found}
        else:
            groups.setdefault(value, {})[cohort] = found
    name = asked.group_by[0].name if asked.group_by else ""
    return _table(asked, everybody, indexes, zone), [
        Group(
            **msgspec.structs.asdict(_table(asked, found, sorted(found), zone)),
            group={name: None if value is None else msgspec.Raw(value.encode())},
        )
        for value, found in groups.items()
    ]


def _table(
    asked: Retention, found: Mapping[int, tuple[int, dict[int, int]]], indexes: Sequence[int], zone: tzinfo
) -> Table:
    cohorts = []
    sizes, sums = [0] * (asked.offsets + 1), [0] * (asked.offsets + 1)
    for index in indexes:
        size, counts = found.get(index, (0, {}))
        returned: list[int | None] = []
        for offset in range(asked.offsets + 1):
            if start_of(index + offset + 1, asked.length, zone) > asked.now_ms:
                returned.append(None)
                continue
            returned.append(counts.get(offset, 0))
            sizes[offset] += size
            sums[offset] += counts.get(offset, 0)
        moment = _start(index, asked.length, zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        cohorts.append(Cohort(moment, size, returned, list(_shares(returned, [size] * len(returned)))))
    return Table(cohorts, Total(sizes, sums, list(_shares(sums, sizes))))


def _shares(counts: Sequence[int | None], sizes: Sequence[int]) -> Iterator[float | None]:
    for count, size in zip(counts, sizes, strict=True):
        yield None if count is None or not size else count / size
