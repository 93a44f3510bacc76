"""Empty buckets: which moments make every bucket of a period, and how many may be. Pure.

The store computes the buckets themselves (`app.sql_fill`), by the same function that puts events into them,
so days without a midnight, hours that come twice and zones of half an hour are never decided twice.
Next reader: `app.query`.
"""

from __future__ import annotations

import msgspec

from app.query_request import Bucket
from app.time_period import Period

MAX_BUCKETS = 10_000  # as many as one answer has rows
_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
# The usual length of a bucket, and how far apart moments may be so that none is stepped over: clocks are
# changed by a quarter of an hour, and a day has been skipped as a whole.
_LENGTHS = {
    Bucket.MINUTE: (_MINUTE, _MINUTE),
    Bucket.FIVE_MINUTES: (5 * _MINUTE, 5 * _MINUTE),
    Bucket.HOUR: (_HOUR, 15 * _MINUTE),
    Bucket.DAY: (_DAY, 6 * _HOUR),
    Bucket.WEEK: (7 * _DAY, _DAY),
    Bucket.MONTH: (30 * _DAY, 7 * _DAY),
    Bucket.YEAR: (365 * _DAY, 30 * _DAY),
}


class Moments(msgspec.Struct, frozen=True):
    """`first_ms`, then every `step_ms`, `count` in all, but none behind `last_ms`."""

    first_ms: int
    step_ms: int
    count: int
    last_ms: int


def moments(period: Period, bucket: Bucket) -> Moments:
    """Moments of `period`, at least one in each of its buckets."""
    step = _LENGTHS[bucket][1]
    last = period.end_ms - 1
    return Moments(period.start_ms, step, (last - period.start_ms) // step + 2, last)


def too_many(period: Period, bucket: Bucket) -> str | None:
    """What is wrong with filling this period, or None."""
    count = (period.end_ms - period.start_ms) // _LENGTHS[bucket][0]
    if count <= MAX_BUCKETS:
        return None
    return (
        f"at most {MAX_BUCKETS:,} buckets are filled, this period has about {count:,} of one {bucket.value}:"
        " shorten time_period, or choose a longer group_by_time"
    )
