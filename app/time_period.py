"""The time period of a query: words or two timestamps -> the half-open stretch [start, end). Pure.

Source of the grammar: api.md section 5. Decisions that it leaves open are listed in docs/query.md.
Next reader: `app.query`.
"""

from __future__ import annotations

import calendar
import contextlib
import difflib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib.resources import files
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from app.errors import Problem
from app.fields import echo, near_miss, unknown
from app.rules import Rule
from app.timestamp import MAX_MS, MIN_MS, parse_timestamp
from app.walk import convert, find_problems

_ROLLING = re.compile(r"minus_([0-9]{1,12})_([a-z]{1,12})", re.ASCII)
_SECONDS = {"minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}
_MONTHS = {"months": 1, "years": 12}
_LENGTH = re.compile(
    r"(?:(?:last|past|previous|minus)[_ -]?([0-9]{1,6})?|([0-9]{1,6}))[_ -]?([a-z]{3,12})", re.ASCII
)
_CALENDAR = ("today", "yesterday", "this_week", "this_month")
_EXAMPLES = (*(f"minus_5_{unit}" for unit in (*_SECONDS, *_MONTHS)), *_CALENDAR)
_DAY = timedelta(days=1)


def _parse_end(text: str) -> int:
    """Not included: to ask for the last millisecond that an event may have, it is one more."""
    return parse_timestamp(text, MAX_MS + 1)


class Period(msgspec.Struct, frozen=True):
    """Events with `start_ms` <= event_time < `end_ms`; Unix milliseconds."""

    start_ms: int
    end_ms: int


class TimeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `start` on and before `end`. Timestamps are those of events; without an offset they are UTC."""

    start: Annotated[
        str,
        Meta(title="timestamp", description="Included", examples=["2021-06-26T14:48:00.000Z"]),
        Rule(parse_timestamp),
    ]
    end: Annotated[
        str, Meta(title="timestamp", description="Not included", examples=["2021-06-27"]), Rule(_parse_end)
    ]

    def moments(self) -> tuple[int, int]:
        """Unix milliseconds."""
        return parse_timestamp(self.start), _parse_end(self.end)

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        start_ms, end_ms = self.moments()
        if start_ms >= end_ms:
            yield "", "start must be before end; end itself is not included"


WHOLE = Period(MIN_MS, MAX_MS + 1)  # every time that an event may have


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    """Those of the package `tzdata`, and not of the system: everybody who asks must mean the same days, and
    so must the embedded engine, which has the same version of the database."""
    return frozenset((files("tzdata") / "zones").read_text().split()) - {"Factory"}  # which is no zone at all


@lru_cache(maxsize=1024)
def read_zone(name: str) -> tzinfo:
    """The IANA time zone called `name`. Errors: ValueError with a sentence for the client."""
    if name == "UTC":
        return UTC
    if name not in _zone_names():
        near = difflib.get_close_matches(name[:64], _zone_names(), 1)
        hint = f"did you mean `{near[0]}`?" if near else "use an IANA name such as Europe/Berlin"
        raise ValueError(f"unknown time zone `{echo(name)}`, {hint}")
    with (files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _check_words(text: str) -> None:
    """Is it a period at all, whenever it is asked for? Errors: ValueError."""
    with contextlib.suppress(OverflowError):
        _rolling(text, UTC, 0) or _calendar(text, UTC, 0)


TimeZone = Annotated[
    str,
    Meta(
        title="time zone",
        description="IANA name. Periods and buckets of the calendar are those of this zone.",
        examples=["Europe/Berlin"],
    ),
    Rule(read_zone),
]
PeriodWords = Annotated[
    str,
    Meta(
        description="`minus_<N>_<minutes, hours, days, weeks, months or years>`, `today`, `yesterday`, "
        "`this_week` or `this_month`",
        examples=["minus_5_minutes", "today"],
    ),
    Rule(_check_words),
]
TimePeriod = PeriodWords | TimeRange


def read_period(value: object, zone: tzinfo, now_ms: int, path: str = "$.time_period") -> Period | Problem:
    """The period that `value`, the request's `time_period`, means at `now_ms`."""
    problems = find_problems(value, TimePeriod, path)
    if problems:
        return problems[0]
    try:
        return period_of(convert(value, TimePeriod), zone, now_ms)
    except ValueError as error:
        return Problem(path, str(error))


def period_of(asked: str | TimeRange, zone: tzinfo, now_ms: int) -> Period:
    """What a `time_period` without problems means at `now_ms`. Errors: ValueError, where it reaches beyond
    the years that events may have."""
    if isinstance(asked, TimeRange):
        return Period(*asked.moments())
    try:
        return _rolling(asked, zone, now_ms) or _calendar(asked, zone, now_ms)
    except OverflowError:
        raise ValueError("the period would begin before the year 1970") from None


def _rolling(text: str, zone: tzinfo, now_ms: int) -> Period | None:
    """Up to and including the present millisecond: an event is in its own answer's first query."""
    match = _ROLLING.fullmatch(text)
    if match is None:
        return None
    count, unit = int(match[1]), match[2]
    if unit not in _SECONDS and unit not in _MONTHS:
        raise ValueError(unknown("unit of time", unit, (*_SECONDS, *_MONTHS)))
    if count < 1:
        raise ValueError("the number must be at least 1")
    if unit in _SECONDS:
        start_ms = now_ms - count * _SECONDS[unit] * 1000
    else:
        start_ms = _to_ms(_months_before(_local(now_ms, zone), count * _MONTHS[unit])) + now_ms % 1000
    if start_ms < MIN_MS:
        raise OverflowError
    return Period(start_ms, now_ms + 1)


def _unknown(text: str) -> str:
    """`last_7_days` means minus_7_days; `this_year` is near to `this_week`, and means something else."""
    length = _LENGTH.fullmatch(text)
    if length and (unit := near_miss(length[3], (*_SECONDS, *_MONTHS))):
        count = int(length[1] or length[2] or 1)
        return f"unknown time period `{echo(text)}`, did you mean `minus_{count}_{unit}`?"
    return unknown("time period", text, _EXAMPLES, likeness=0.8)


def _calendar(text: str, zone: tzinfo, now_ms: int) -> Period:
    if text not in _CALENDAR:
        raise ValueError(_unknown(text) + ' or {"start": "…", "end": "…"}')
    midnight = _local(now_ms, zone).replace(hour=0, minute=0, second=0, fold=0)
    if text == "today":
        start, end = midnight, midnight + _DAY
    elif text == "yesterday":
        # By the clock, not by the calendar: Samoa once skipped a day, and the one before that is meant.
        last_second = _local(_to_ms(midnight) - 1, zone)
        start, end = last_second.replace(hour=0, minute=0, second=0, fold=0), midnight
    elif text == "this_week":
        start = midnight - midnight.weekday() * _DAY
        end = start + 7 * _DAY
    else:
        start = midnight.replace(day=1)
        end = (start + 31 * _DAY).replace(day=1)
    # Arithmetic on a zoned datetime moves the wall clock, so a day is 23 or 25 hours where it must be.
    return Period(_to_ms(start), _to_ms(end))


def _local(moment_ms: int, zone: tzinfo) -> datetime:
    """The wall clock in `zone`, in whole seconds."""
    return datetime.fromtimestamp(moment_ms // 1000, zone)


def _to_ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _months_before(moment: datetime, months: int) -> datetime:
    """The same day and time `months` earlier; the last day of a month that is too short."""
    index = moment.year * 12 + moment.month - 1 - months
    year, month = index // 12, index % 12 + 1
    if year < 1969:  # the caller checks the exact bound; datetime knows no year below 1
        raise OverflowError
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return moment.replace(year=year, month=month, day=day)
