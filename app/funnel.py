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
from msgspec import UNSET, Meta, UnsetType

from app.analysis import About, By, EventsRequest, GroupNames, problems_together, read_analysis, to_events
from app.errors import invalid_body
from app.fields import Field, resolve, unknown
from app.filters import Condition, to_conditions
from app.query_request import PeriodRequest
from app.rules import Rule
from app.time_period import Period

MIN_STEPS, MAX_STEPS = 2, 20
MAX_GROUP_BY = 2
DEFAULT_GROUPS, MAX_GROUPS = 100, 1000
DEFAULT_WINDOW = "30_days"
MAX_WINDOW_MS = 366 * 86_400_000
_WINDOW = re.compile(r"([0-9]{1,9})_([a-z]{1,12})", re.ASCII)
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}


def _milliseconds(window: str) -> int:
    """Errors: ValueError with a sentence for the client."""
    match = _WINDOW.fullmatch(window)
    if match is None:
        raise ValueError("expected a length of time such as `1_hours` or `7_days`")
    count, unit = int(match[1]), match[2]
    if unit.startswith(("month", "year")):
        raise ValueError(f"`{unit}` have no exact length; use days or weeks")
    if unit not in _SECONDS:
        raise ValueError(unknown("unit of time", unit, _SECONDS))
    length = count * _SECONDS[unit] * 1000
    if not 0 < length <= MAX_WINDOW_MS:
        raise ValueError("expected a length from 1_seconds to 366_days")
    return length


Window = Annotated[
    str,
    Meta(
        description="How long an attempt may take: `<N>_<seconds, minutes, hours, days or weeks>`, at most "
        "`366_days`.",
        extra_json_schema={"pattern": "^[1-9][0-9]?_(seconds|minutes|hours|days|weeks)$"},
    ),
    Rule(_milliseconds),
]


class StepRequest(EventsRequest, frozen=True, kw_only=True):
    """The events of one step."""

    name: (
        Annotated[str, Meta(description="What the answer calls the step.", min_length=1, max_length=100)]
        | UnsetType
    ) = UNSET


class FunnelRequest(PeriodRequest, frozen=True, kw_only=True):
    """How many customers take one step after the other."""

    steps: Annotated[
        tuple[StepRequest, ...],
        Meta(description="In their order; 2 to 20.", min_length=MIN_STEPS, max_length=MAX_STEPS),
    ]
    window: Window = DEFAULT_WINDOW
    by: By = "customer_identifier"
    group_by: Annotated[
        GroupNames,
        Meta(description="At most 2 fields: what they were at the first step.", max_length=MAX_GROUP_BY),
    ] = ()
    limit: Annotated[int, Meta(description="The largest number of groups.", ge=1, le=MAX_GROUPS)] = (
        DEFAULT_GROUPS
    )


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


class FunnelStep(msgspec.Struct, frozen=True):
    """`count`: customers who got here. Conversions are shares, null where nobody could have come; medians are
    milliseconds, null where nobody came."""

    name: str
    count: int
    dropped: int  # who took the step before and not this one
    conversion_from_previous: float | None
    conversion_from_first: float | None
    median_ms_from_previous: float | None
    median_ms_from_first: float | None


class FunnelGroup(msgspec.Struct, frozen=True):
    """The customers whose first step has these values."""

    group: dict[str, msgspec.Raw | None]
    steps: list[FunnelStep]


class FunnelAnswer(About, frozen=True, kw_only=True):
    """`steps`: all customers together. `groups`: the largest ones."""

    steps: list[FunnelStep]
    groups: list[FunnelGroup]
    window_ms: int


def read_funnel(body: bytes, now_ms: int) -> Funnel:
    """The funnel in `body`. Errors: ApiError 400 that names every problem."""
    asked, period = read_analysis(body, FunnelRequest, now_ms)
    steps = tuple(map(to_events, asked.steps))
    filters = to_conditions(asked.filters)
    if problems := problems_together((*steps, filters)):
        raise invalid_body(problems)
    return Funnel(
        period=period,
        steps=steps,
        names=tuple(_name(step, index) for index, step in enumerate(asked.steps)),
        window_ms=_milliseconds(asked.window),
        by=resolve(asked.by),
        group_by=tuple(map(resolve, asked.group_by)),
        filters=filters,
        limit=asked.limit,
    )


def _name(step: StepRequest, index: int) -> str:
    for name in (step.name, step.event_name):
        if name is not UNSET:
            return name
    return f"step {index + 1}"


def groups(funnel: Funnel, rows: Sequence[Sequence[Any]]) -> tuple[list[FunnelStep], list[FunnelGroup]]:
    """What `app.sql_funnel`'s statement returned: all customers together, and each group."""
    total = _steps(funnel, [0] * len(funnel.steps), [None] * len(funnel.steps), [None] * len(funnel.steps))
    found: list[FunnelGroup] = []
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
        found.append(FunnelGroup(group, steps))
    return total, found


def _steps(
    funnel: Funnel,
    counts: Sequence[int],
    from_previous: Sequence[float | None],
    from_first: Sequence[float | None],
) -> list[FunnelStep]:
    steps = []
    for index, (name, count) in enumerate(zip(funnel.names, counts, strict=True)):
        before, first = counts[index - 1] if index else count, counts[0]
        steps.append(
            FunnelStep(
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
