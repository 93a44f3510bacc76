"""The time axis of a chart: every bucket of a period, and which of them are labelled how. Pure.

All in the query's time zone. Next reader: `app.chart_data`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta, tzinfo

from app.query_request import Bucket
from app.time_period import Period

_MINUTE_MS = 60_000
_FIXED_MS = {
    Bucket.MINUTE: _MINUTE_MS,
    Bucket.FIVE_MINUTES: 5 * _MINUTE_MS,
    Bucket.HOUR: 60 * _MINUTE_MS,
}
# How long a bucket is at least: enough to tell how many there would be before any is made.
_LEAST_MS = _FIXED_MS | {
    bucket: days * 24 * 60 * _MINUTE_MS
    for bucket, days in ((Bucket.DAY, 1), (Bucket.WEEK, 7), (Bucket.MONTH, 30), (Bucket.YEAR, 365))
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
Fits = Callable[[datetime], bool]


def at(moment_ms: int, zone: tzinfo) -> datetime:
    """The wall clock in `zone` at a moment in Unix milliseconds, in whole seconds."""
    return datetime.fromtimestamp(moment_ms // 1000, zone)


def moment_of(text: object) -> int:
    """Unix milliseconds of a bucket as an answer names it; the first may begin before 1970."""
    return round(datetime.fromisoformat(str(text)).timestamp() * 1000)


def count_buckets(period: Period, bucket: Bucket) -> int:
    """About how many buckets `period` has; never many fewer."""
    return (period.end_ms - period.start_ms) // _LEAST_MS[bucket] + 1


def bucket_starts(period: Period, bucket: Bucket, zone: tzinfo) -> Iterator[int]:
    """The start of every bucket that `period` touches, Unix milliseconds, ascending."""
    fixed = _FIXED_MS.get(bucket)
    if fixed is not None:
        offset = at(period.start_ms, zone).utcoffset() or timedelta(0)
        shift = int(offset.total_seconds() * 1000)
        yield from range(period.start_ms - (period.start_ms + shift) % fixed, period.end_ms, fixed)
        return
    day = _first_day(at(period.start_ms, zone).date(), bucket)
    while True:
        start_ms = int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
        if start_ms >= period.end_ms:
            return
        yield start_ms
        if day.year >= 2101:
            return
        day = _next_day(day, bucket)


def _first_day(day: date, bucket: Bucket) -> date:
    if bucket is Bucket.WEEK:
        return day - timedelta(days=day.weekday())
    if bucket is Bucket.MONTH:
        return day.replace(day=1)
    return day.replace(month=1, day=1) if bucket is Bucket.YEAR else day


def _next_day(day: date, bucket: Bucket) -> date:
    if bucket is Bucket.DAY:
        return day + timedelta(days=1)
    if bucket is Bucket.WEEK:
        return day + timedelta(days=7)
    if bucket is Bucket.MONTH:
        return (day + timedelta(days=31)).replace(day=1)
    return day.replace(year=day.year + 1)


def name(moment: datetime, bucket: Bucket) -> str:
    """A bucket's full name, for tables and for whoever points at it."""
    if bucket is Bucket.YEAR:
        return f"{moment.year}"
    if bucket is Bucket.MONTH:
        return f"{_MONTHS[moment.month - 1]} {moment.year}"
    day = f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    if bucket is Bucket.DAY:
        return day
    return f"week of {day}" if bucket is Bucket.WEEK else f"{day} {moment:%H:%M}"


def span(start: datetime, end: datetime) -> str:
    """A period in words; `end` is its last moment. A day, or several, where it is whole days."""
    whole = (start.hour, start.minute, end.hour, end.minute) == (0, 0, 23, 59)
    first, last = (f"{d.day} {_MONTHS[d.month - 1]} {d.year}" for d in (start, end))
    if start.date() == end.date():
        return first if whole else f"{first}, {start:%H:%M} – {end:%H:%M}"  # noqa: RUF001
    return f"{first} – {last}" if whole else f"{first} {start:%H:%M} – {last} {end:%H:%M}"  # noqa: RUF001


def axis_labels(moments: Sequence[datetime], bucket: Bucket, most: int) -> list[str]:
    """A label for each bucket, "" for those between: the finest round distance with at most `most`."""
    text: Callable[[datetime], str] = _day
    chosen = list(range(0, len(moments), max(1, math.ceil(len(moments) / most))))  # where nothing round fits
    for fits, how in _scales(bucket):
        fitting = [index for index, moment in enumerate(moments) if fits(moment)]
        if 0 < len(fitting) <= most:
            chosen, text = fitting, how
            break
    labels = [""] * len(moments)
    year = None
    for index in chosen:
        labels[index] = text(moments[index])
        # Which year it is, said where the axis crosses into it.
        if text is _day and year is not None and moments[index].year != year:
            labels[index] += f" {moments[index].year}"
        year = moments[index].year
    return labels


def _scales(bucket: Bucket) -> Iterator[tuple[Fits, Callable[[datetime], str]]]:
    """From fine to coarse: which buckets have a label, and what it says."""
    if bucket in _FIXED_MS:
        for minutes in (1, 5, 10, 15, 30):
            yield _every_minutes(minutes), _clock
        for hours in (1, 2, 3, 6, 12):
            yield _every_minutes(60 * hours), _clock
    if bucket is Bucket.WEEK:
        for weeks in (1, 2, 4):
            yield _every_days(7 * weeks), _day
    elif bucket not in (Bucket.MONTH, Bucket.YEAR):
        for days in (1, 2, 7, 14):
            yield _every_days(days), _day
    if bucket is not Bucket.YEAR:
        for months in (1, 2, 3, 6):
            yield _every_months(months, bucket), _month
    for years in (1, 2, 5, 10, 20, 50):
        yield _every_years(years, bucket), _year


def _every_minutes(minutes: int) -> Fits:
    return lambda moment: (moment.hour * 60 + moment.minute) % minutes == 0


def _every_days(days: int) -> Fits:
    """Those of several days fall on Mondays: day 1 of the calendar was one."""
    return lambda moment: _midnight(moment) and (moment.toordinal() - 1) % days == 0


def _every_months(months: int, bucket: Bucket) -> Fits:
    last = 7 if bucket is Bucket.WEEK else 1  # a week has the label of the month that begins in it, or before
    return lambda m: _midnight(m) and m.day <= last and (m.month - 1) % months == 0


def _every_years(years: int, bucket: Bucket) -> Fits:
    months = _every_months(12, bucket)
    return lambda moment: months(moment) and moment.year % years == 0


def _midnight(moment: datetime) -> bool:
    """Or the first hour of a day that has no midnight."""
    return moment.hour * 60 + moment.minute == 0 or (moment.fold == 0 and moment.hour == 1 and _skips(moment))


def _skips(moment: datetime) -> bool:
    before = datetime.fromtimestamp(moment.timestamp() - 3600, moment.tzinfo)
    return before.date() != moment.date()


def _clock(moment: datetime) -> str:
    return _day(moment) if _midnight(moment) and moment.minute == 0 else f"{moment:%H:%M}"


def _day(moment: datetime) -> str:
    return f"{moment.day} {_MONTHS[moment.month - 1]}"


def _month(moment: datetime) -> str:
    return _MONTHS[moment.month - 1] if moment.month > 1 else f"{moment.year}"


def _year(moment: datetime) -> str:
    return f"{moment.year}"


def nearest(starts: Sequence[int], moment_ms: int) -> int:
    """The index of the bucket that begins at `moment_ms` or last before it; -1 before the first."""
    return bisect.bisect_right(starts, moment_ms) - 1
