"""What a project has stored: events by day and event name, and what became of all that was accepted. Pure.

Two sources, each for what it knows. The store counts its rows by the day in which they were recorded, by the
server's clock, and by name. The ledger counts by hour what was accepted and which fate it met, names unknown,
and forgets hours after a while (`app.ledger`): then a day has no `fates` any more, only its rows.
Next reader: `app.manage_usage`, which asks both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app import ledger
from app.answer import ShownPeriod, zoned
from app.days import begin_ms, date_at, number_of, numbered
from app.errors import Problem, invalid_body
from app.ledger import HOUR_MS, Fates
from app.time_period import Period, TimePeriod, TimeZone, period_of, read_zone

MAX_DAYS = 400
MAX_ROWS = 50_000  # pairs of day and event name in one answer


class UsageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a project has written."""

    project_id: str
    time_period: Annotated[TimePeriod, Meta(description="When the events were recorded, by our clock.")]
    timezone: TimeZone = "UTC"


class Day(msgspec.Struct, frozen=True):
    """A day, or what of it lies in the period. `count`: stored events that a query can see.

    `fates`: what became of all that was accepted in it; null where the ledger does not know any more, or the
    day is not made of whole hours.
    """

    day: str
    count: int
    event_names: dict[str, int]
    fates: Fates | None


class UsageAnswer(msgspec.Struct, frozen=True):
    """`count`: of all days together."""

    project_id: str
    count: int
    days: list[Day]
    time_period: ShownPeriod
    elapsed_ms: float
    fresh_as_of: int


class Usage(msgspec.Struct, frozen=True):
    """A checked request."""

    project_id: str
    period: Period
    timezone: str
    now_ms: int


def to_usage(asked: UsageRequest, now_ms: int) -> Usage:
    """What is asked for at `now_ms`. Errors: ApiError 400."""
    zone = read_zone(asked.timezone)
    try:
        period = period_of(asked.time_period, zone, now_ms)
    except ValueError as error:
        raise invalid_body([Problem("$.time_period", str(error))]) from None
    days = index_of(period.end_ms - 1, zone) - index_of(period.start_ms, zone) + 1
    if days > MAX_DAYS:
        raise invalid_body([Problem("$.time_period", f"at most {MAX_DAYS} days; this has {days}")])
    return Usage(asked.project_id, period, asked.timezone, now_ms)


def index_of(moment_ms: int, zone: tzinfo) -> int:
    """The number of the day since 1970 in which the moment lies in `zone`; as in `app.sql_usage`."""
    return number_of(date_at(moment_ms, zone))


def hours(usage: Usage) -> range:
    """The hours since 1970 of the period that the ledger may still tell apart."""
    now_ms, period = usage.now_ms, usage.period
    first, last = period.start_ms // HOUR_MS, min(period.end_ms - 1, now_ms) // HOUR_MS
    # A day more than are kept: whoever folds them comes when he comes.
    return range(max(first, now_ms // HOUR_MS - ledger.KEPT_HOURS - 24), last + 1)


def days(
    usage: Usage, rows: Sequence[Sequence[Any]], by_hour: Mapping[int, Fates] | None, kept_from_hour: int
) -> Iterator[Day]:
    """Every day of the period. `rows`: (index of the day, event name, events). `by_hour`: what the ledger
    says, None where it cannot be asked."""
    zone, period = read_zone(usage.timezone), usage.period
    names: dict[int, dict[str, int]] = {}
    for index, name, count in rows:
        names.setdefault(index, {})[name] = count
    for index in range(index_of(period.start_ms, zone), index_of(period.end_ms - 1, zone) + 1):
        begins, ends = begin_ms(numbered(index), zone), begin_ms(numbered(index + 1), zone)
        part = Period(max(begins, period.start_ms), min(ends, period.end_ms))
        own = names.get(index, {})
        fates = None if by_hour is None else _fates(part, by_hour, kept_from_hour, usage.now_ms)
        yield Day(zoned(begins, zone), sum(own.values()), own, fates)


def _fates(part: Period, by_hour: Mapping[int, Fates], kept_from_hour: int, now_ms: int) -> Fates | None:
    """Of whole hours. The present one is whole, since nothing is recorded in the rest of it yet."""
    first, last = part.start_ms // HOUR_MS, (part.end_ms - 1) // HOUR_MS
    is_cut = part.start_ms % HOUR_MS or (part.end_ms % HOUR_MS and part.end_ms <= now_ms)
    if is_cut or first < kept_from_hour:
        return None
    sums = dict.fromkeys(ledger.FATES, 0)
    for hour in range(first, last + 1):
        for fate, number in by_hour.get(hour, {}).items():
            sums[fate] += number
    return {**sums, ledger.QUEUED: ledger.queued(sums)}
