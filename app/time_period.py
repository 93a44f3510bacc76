"""The time period of a query: words or two timestamps -> the half-open stretch [start, end). Pure.

Source of the grammar: api.md section 5. Decisions that it leaves open are listed in docs/query.md.
Next reader: `app.query`.
"""

from __future__ import annotations

import calendar
import difflib
import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from app.errors import Problem
from app.fields import echo, unknown
from app.timestamp import MAX_MS, MIN_MS, parse_timestamp

_ROLLING = re.compile(r"minus_([0-9]{1,12})_([a-z]{1,12})", re.ASCII)
_SECONDS = {"minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}
_MONTHS = {"months": 1, "years": 12}
_CALENDAR = ("today", "yesterday", "this_week", "this_month")
_EXAMPLES = (*(f"minus_5_{unit}" for unit in (*_SECONDS, *_MONTHS)), *_CALENDAR)
_DAY = timedelta(days=1)


class Period(msgspec.Struct, frozen=True):
    """Events with `start_ms` <= event_time < `end_ms`; Unix milliseconds."""

    start_ms: int
    end_ms: int


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    # "localtime" would mean the server's own, "Factory" none at all: files of the system, not zones.
    return (frozenset(available_timezones()) | {"UTC"}) - {"localtime", "Factory"}


def read_zone(name: str) -> tzinfo:
    """The IANA time zone called `name`. Errors: ValueError with a sentence for the client."""
    if name == "UTC":  # needs no time zone files
        return UTC
    if name not in _zone_names():
        near = difflib.get_close_matches(name[:64], _zone_names(), 1)
        hint = f'did you mean "{near[0]}"?' if near else "use an IANA name such as Europe/Berlin"
        raise ValueError(f'unknown time zone "{echo(name)}", {hint}')
    return ZoneInfo(name)


def read_period(value: object, zone: tzinfo, now_ms: int) -> Period | Problem:
    """The period that `value`, the request's `time_period`, means at `now_ms`."""
    path = "$.time_period"
    try:
        if isinstance(value, str):
            return _rolling(value, zone, now_ms) or _calendar(value, zone, now_ms)
    except ValueError as error:
        return Problem(path, str(error))
    except OverflowError:
        return Problem(path, "the period would begin before the year 1970")
    if isinstance(value, dict):
        return _explicit(value)
    return Problem(path, 'expected words such as "minus_5_minutes", or {"start": "…", "end": "…"}')


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


def _calendar(text: str, zone: tzinfo, now_ms: int) -> Period:
    if text not in _CALENDAR:
        raise ValueError(unknown("time period", text, _EXAMPLES) + ' or {"start": "…", "end": "…"}')
    midnight = _local(now_ms, zone).replace(hour=0, minute=0, second=0, fold=0)
    if text == "today":
        start, end = midnight, midnight + _DAY
    elif text == "yesterday":
        start, end = midnight - _DAY, midnight
    elif text == "this_week":
        start = midnight - midnight.weekday() * _DAY
        end = start + 7 * _DAY
    else:
        start = midnight.replace(day=1)
        end = (start + 31 * _DAY).replace(day=1)
    # Arithmetic on a zoned datetime moves the wall clock, so a day is 23 or 25 hours where it must be.
    return Period(_to_ms(start), _to_ms(end))


def _explicit(value: dict[object, object]) -> Period | Problem:
    for name in value:
        if name not in ("start", "end"):
            return Problem(f"$.time_period.{name}", unknown("member", str(name), ("start", "end")))
    moments: list[int] = []
    for name in ("start", "end"):
        path, text = f"$.time_period.{name}", value.get(name)
        if not isinstance(text, str):
            return Problem(path, 'required: a timestamp such as "2021-06-26T14:48:00.000Z"')
        try:
            # An end is not included: to ask for the last millisecond that an event may have, it is one more.
            moments.append(parse_timestamp(text, MAX_MS + (name == "end")))
        except ValueError as error:
            return Problem(path, str(error))
    start_ms, end_ms = moments
    if start_ms >= end_ms:
        return Problem("$.time_period", "start must be before end; end itself is not included")
    return Period(start_ms, end_ms)


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
