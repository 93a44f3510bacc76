"""When clocks of a time zone were changed in a way that no full hour survives. Pure.

Most changes are by one hour at a full hour. Lord Howe Island changes by half an hour, and others once did so
or at one minute past midnight: hours that follow such a change within the day begin in the middle of what the
engine's own functions take for an hour (`app.sql_buckets`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import datetime
from functools import lru_cache

from app.time_period import Period, read_zone
from app.timestamp import MAX_MS

_HOUR, _DAY, _WEEK = 3600, 86_400, 604_800


def odd_changes(zone: str, period: Period) -> tuple[int, ...]:
    """Those that hours of `period` may feel: Unix milliseconds, ascending."""
    changes = _all_odd(zone)
    first = bisect_left(changes, period.start_ms - _DAY * 1000)
    return changes[first : bisect_right(changes, period.end_ms)]


@lru_cache(maxsize=64)
def _all_odd(name: str) -> tuple[int, ...]:
    zone = read_zone(name)

    def offset(second: int) -> int:
        moved = datetime.fromtimestamp(second, zone).utcoffset()
        return 0 if moved is None else int(moved.total_seconds())

    found: list[int] = []
    before = offset(0)
    for start in range(0, MAX_MS // 1000, _WEEK):
        low, high = start, start + _WEEK
        after = offset(high)
        if after == before:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == before else (low, middle)
        if (after - before) % _HOUR or (high + before) % _HOUR:
            found.append(high * 1000)
        before = after
    return tuple(found)
