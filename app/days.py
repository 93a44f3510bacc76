"""Days of the calendar as numbers since 1970, and when they begin in a time zone. Pure.

As the engine counts them (`app.sql_usage`, `app.sql_cohorts`). A day that has no midnight begins when the
clock first shows it.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo

_EPOCH = date(1970, 1, 1)


def date_at(moment_ms: int, zone: tzinfo) -> date:
    """The day in which the moment (Unix milliseconds) lies in `zone`."""
    return datetime.fromtimestamp(moment_ms // 1000, zone).date()


def number_of(day: date) -> int:
    """Days since 1970."""
    return (day - _EPOCH).days


def numbered(number: int) -> date:
    """The day with that number."""
    return _EPOCH + timedelta(days=number)


def begin_ms(day: date, zone: tzinfo) -> int:
    """Unix milliseconds of the day's beginning in `zone`."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
