"""What the requests and answers of funnels, retention, timelines and fields have in common. Pure.

Each has types of its own, which check a request, describe it and name all that is wrong (`app.request`).
Next readers: `app.funnel`, `app.cohorts`, `app.timeline`, `app.seen_fields`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.answer import ShownPeriod
from app.errors import Problem, invalid_body
from app.fields import FieldName, Kind, resolve
from app.filters import Condition, Filter, FilterRequest, Filters, each_filter, to_conditions
from app.operators import Op, too_much
from app.query_request import PeriodRequest, read_period_of
from app.request import read_members
from app.rules import Rule
from app.time_period import Period

R = TypeVar("R", bound=PeriodRequest)

MAX_FILTERS = 100  # in all lists of one request


def _check_apart(name: str) -> None:
    if resolve(name).kind is Kind.TIME:
        raise ValueError(f"`{name}` is a time, which tells nobody apart")


def _check_once(names: tuple[str, ...]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"`{name}` is there twice")


GroupName = Annotated[FieldName, Rule(_check_apart)]
GroupNames = Annotated[tuple[GroupName, ...], Rule(_check_once)]
By = Annotated[GroupName, Meta(description="Whose events belong together: those with the same value here.")]
EventName = Annotated[str, Meta(description="Events of this name.", min_length=1, max_length=256)]


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some of the events: those of a name that pass the filters; without both, any."""

    event_name: EventName | UnsetType = UNSET
    filters: Filters = ()


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer tells of itself. `fresh_as_of`: Unix milliseconds up to which every event that
    reached the stream is counted."""

    time_period: ShownPeriod
    elapsed_ms: float
    fresh_as_of: int


class ForEvents(Protocol):
    """An EventsRequest, or another with its members."""

    @property
    def event_name(self) -> str | UnsetType: ...
    @property
    def filters(self) -> tuple[FilterRequest, ...]: ...


def read_analysis(body: bytes, kind: type[R], now_ms: int) -> tuple[R, Period]:
    """The request in `body`, and its period. Errors: ApiError 400 that names every problem of its members."""
    asked, problems = read_members(body, kind)
    period = read_period_of(asked, now_ms, problems)
    if problems or period is None:
        raise invalid_body(problems)
    return asked, period


def to_events(asked: ForEvents) -> tuple[Condition, ...]:
    """What the event must fulfil."""
    conditions = to_conditions(asked.filters)
    if asked.event_name is UNSET:
        return conditions
    return (Filter(resolve("event_name"), Op.EQUALS, (asked.event_name,)), *conditions)


def problems_together(lists: Iterable[tuple[Condition, ...]]) -> list[Problem]:
    """What is too much of all conditions of a request, though no list of them is."""
    filters = [item for conditions in lists for item in each_filter(conditions)]
    if len(filters) > MAX_FILTERS:
        message = f"at most {MAX_FILTERS} filters in one request; this has {len(filters)}"
        return [Problem("$", message)]
    reason = too_much((item.op, item.values) for item in filters)
    return [Problem("$", reason)] if reason else []
