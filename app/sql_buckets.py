"""The bucket in which a moment lies, in ClickHouse's SQL. Pure.

Buckets from a day on are those of the calendar in the query's time zone. Shorter ones are those of the clock
on the wall, and end where it is changed: an hour that comes twice is two buckets.
Next reader: `app.sql`.
"""

from __future__ import annotations

from app.clock_changes import odd_changes
from app.query_request import Bucket
from app.time_period import Period

_STARTS = {
    Bucket.MINUTE: "toStartOfMinute",
    Bucket.FIVE_MINUTES: "toStartOfFiveMinutes",
    Bucket.HOUR: "toStartOfHour",
    Bucket.DAY: "toStartOfDay",
    Bucket.WEEK: "toMonday",
    Bucket.MONTH: "toStartOfMonth",
    Bucket.YEAR: "toStartOfYear",
}
_BEFORE_ALL = -86_400_000
_SIZES = {Bucket.MINUTE: 60_000, Bucket.FIVE_MINUTES: 300_000, Bucket.HOUR: 3_600_000}


def bucket_start(bucket: Bucket, moment: str, *, zone: str, parameter: str, period: Period) -> str:
    """The start of the bucket of `moment` (a DateTime64 of `period`), a date or time in `zone`, whose
    `parameter` stands for it in the SQL."""
    changes = odd_changes(zone, period) if bucket in _SIZES else ()
    if not changes:
        return f"{_STARTS[bucket]}({moment}, {parameter})"
    offset = f"1000 * timeZoneOffset(toTimeZone({moment}, {parameter}))"
    unix = f"toUnixTimestamp64Milli({moment})"
    by_the_clock = f"{unix} - positiveModulo({unix} + {offset}, {_SIZES[bucket]})"
    since = f"roundDown({unix}, CAST({[_BEFORE_ALL, *changes]}, 'Array(Int64)'))"
    return f"fromUnixTimestamp64Milli(greatest({by_the_clock}, {since}), {parameter})"
