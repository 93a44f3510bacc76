"""Funnels: how many customers take one step after the other, in time. Request and answer; pure.

An attempt begins with each event of the first step. For each further step it takes the first later event that
matches, as long as the window lasts. A customer is counted by the attempt that got furthest; of several, by
the first. "Later" is the order of `event_time`, and of arrival where that is equal; so no event is two steps.
Next reader: `app.sql_funnel`, which says the same in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.analysis import AnalysisRequest, EventsRequest, FieldName, Reading
from app.errors import Problem
from app.fields import Field, unknown
from app.filters import Condition
from app.time_period import Period

MIN_STEPS, MAX_STEPS = 2, 20
MAX_GROUP_BY = 2
DEFAULT_GROUPS, MAX_GROUPS = 100, 1000
DEFAULT_WINDOW = "30_days"
MAX_WINDOW_MS = 366 * 86_400_000
_WINDOW = re.compile(r"([0-9]{1,9})_([a-z]{1,12})", re.ASCII)
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}
Window = Annotated[
    str,
    Meta(
        description="How long an attempt may take",
        extra_json_schema={"pattern": "^[1-9][0-9]?_(seconds|minutes|hours|days|weeks)$"},
    ),
]


class StepRequest(EventsRequest, frozen=True, kw_only=True):
    """`name` is what the answer calls it."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class FunnelRequest(AnalysisRequest, frozen=True, kw_only=True):
    steps: Annotated[tuple[StepRequest, ...], Meta(min_length=MIN_STEPS, max_length=MAX_STEPS)]
    window: Window = DEFAULT_WINDOW
    by: FieldName = "customer_identifier"
    group_by: Annotated[tuple[FieldName, ...], Meta(max_length=MAX_GROUP_BY)] = ()
    limit: Annotated[int, Meta(ge=1, le=MAX_GROUPS)] = DEFAULT_GROUPS


class Funnel(msgspec.Struct, frozen=True):
    """A checked request. `limit`: groups in the answer."""

    period: Period
    steps: tuple[tuple[Condition, ...], ...]
    names: tuple[str, ...]
    window_ms: int
    by: Field
    group_by: tuple[Field, ...]
    filters: tuple[Condition, ...]
    limit: int


class Step(msgspec.Struct, frozen=True):
    """`count`: customers who got here. Conversions are shares, null where nobody could have come; medians are
    milliseconds, null where nobody came."""

    name: str
    count: int
    dropped: int  # who took the step before and not this one
    conversion_from_previous: float | None
    conversion_from_first: float | None
    median_ms_from_previous: float | None
    median_ms_from_first: float | None


class Group(msgspec.Struct, frozen=True):
    """The customers whose first step has these values."""

    group: dict[str, msgspec.Raw | None]
    steps: list[Step]


def read_funnel(body: bytes, now_ms: int) -> Funnel:
    """The funnel in `body`. Errors: ApiError 400 that names every problem."""
    reading = Reading(body, FunnelRequest, now_ms)
    asked = reading.value.get("steps")
    steps: list[tuple[Condition, ...]] = []
    names: list[str] = []
    for index, step in enumerate(asked if isinstance(asked, list) else []):
        if len(steps) == MAX_STEPS:
            break
        steps.append(reading.events(step, f"$.steps[{index}]"))
        names.append(_name(step, index))
    window_ms = _window(reading.value.get("window", DEFAULT_WINDOW), reading.problems)
    by = reading.field(reading.value.get("by", "customer_identifier"), "$.by")
    group_by, filters = reading.grouped_by(MAX_GROUP_BY), reading.filters()
    reading.check()
    if by is None:  # said by `check`
        raise ValueError("by")
    limit = int(str(reading.value.get("limit", DEFAULT_GROUPS)))
    return Funnel(reading.period, tuple(steps), tuple(names), window_ms, by, group_by, filters, limit)


def _name(step: object, index: int) -> str:
    named: dict[str, Any] = step if isinstance(step, dict) else {}
    return str(named.get("name") or named.get("event_name") or f"step {index + 1}")


def _window(text: object, problems: list[Problem]) -> int:
    """Milliseconds."""
    match = _WINDOW.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        if isinstance(text, str):
            message = 'expected a length of time such as "1_hours" or "7_days"'
            problems.append(Problem("$.window", message))
        return 0
    count, unit = int(match[1]), match[2]
    if unit not in _SECONDS:
        problems.append(Problem("$.window", unknown("unit of time", unit, _SECONDS)))
        return 0
    length = count * _SECONDS[unit] * 1000
    if not 0 < length <= MAX_WINDOW_MS:
        problems.append(Problem("$.window", "expected a length from 1_seconds to 366_days"))
    return length


def groups(funnel: Funnel, rows: Sequence[Sequence[Any]]) -> tuple[list[Step], list[Group]]:
    """What `app.sql_funnel`'s statement returned: all customers together, and each group."""
    total = _steps(funnel, [0] * len(funnel.steps), [None] * len(funnel.steps), [None] * len(funnel.steps))
    found: list[Group] = []
    size = len(funnel.group_by)
    for row in rows:
        is_total, values, (counts, from_previous, from_first) = row[0], row[1 : 1 + size], row[1 + size :]
        steps = _steps(funnel, counts, from_previous, from_first)
        if is_total:
            total = steps
            continue
        group = {
            field.name: None if text is None else msgspec.Raw(text.encode())
            for field, text in zip(funnel.group_by, values, strict=True)
        }
        found.append(Group(group, steps))
    return total, found


def _steps(
    funnel: Funnel,
    counts: Sequence[int],
    from_previous: Sequence[float | None],
    from_first: Sequence[float | None],
) -> list[Step]:
    steps = []
    for index, (name, count) in enumerate(zip(funnel.names, counts, strict=True)):
        before, first = counts[index - 1] if index else count, counts[0]
        steps.append(
            Step(
                name=name,
                count=count,
                dropped=before - count,
                conversion_from_previous=count / before if before else None,
                conversion_from_first=count / first if first else None,
                median_ms_from_previous=from_previous[index] if index else None,
                median_ms_from_first=from_first[index] if index else None,
            )
        )
    return steps
