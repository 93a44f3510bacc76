"""Counts what the store holds, by project and hour: rows, and distinct ids among them. Bounded in memory.

Asks day by day. Distinct ids cost the store memory, so no question is about more than ROWS_A_QUESTION rows:
a day is cut into hours, and an hour that is fuller into slices by a hash of the ids, in which copies meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from app import ledger
from app.store import Store

ROWS_A_QUESTION = 2_000_000  # some 100 MB in the store
QUESTION_SECONDS = 120.0
DAY = 24

_HOUR = "intDiv(toUnixTimestamp64Milli(time_recorded), 3600000)"
_BETWEEN = (
    "time_recorded >= fromUnixTimestamp64Milli({from:Int64})"
    " AND time_recorded < fromUnixTimestamp64Milli({to:Int64})"
)
_DAYS = f"SELECT DISTINCT toInt64(floor({_HOUR} / {DAY})) AS day FROM events"  # noqa: S608
_BY_HOUR = f"SELECT {_HOUR} AS hour, count() FROM events WHERE {_BETWEEN} GROUP BY hour ORDER BY hour"  # noqa: S608
_BY_BUCKET = (
    f"SELECT project_id, {_HOUR} AS hour, count(), uniqExact(unique_req_id) FROM events WHERE {_BETWEEN}"  # noqa: S608
    " AND cityHash64(unique_req_id) % {slices:UInt64} = {number:UInt64} GROUP BY project_id, hour"
)


class Hours(msgspec.Struct, frozen=True):
    """Hours since 1970, the end excluded."""

    first: int
    end: int


class Portion(msgspec.Struct, frozen=True):
    """What is asked at once, or in several slices of the same hour."""

    hours: Hours
    slices: int


class Rows(msgspec.Struct):
    """What the store holds for one bucket of the ledger."""

    count: int = 0
    distinct: int = 0


async def days(store: Store, hours: Hours | None = None) -> list[int]:
    """The days since 1970 that have rows, in `hours` or ever. Errors: StoreError.

    A wrong clock may have put decades between two of them. The engine's times end in 2299: 150,000 at most.
    """
    where, limits = ("", {}) if hours is None else (f" WHERE {_BETWEEN}", _limits(hours))
    result = await store.ask(f"{_DAYS}{where} ORDER BY day", limits, timeout_seconds=QUESTION_SECONDS)
    return [int(str(day)) for (day,) in result.rows]


def cut(day: int, hours: Hours) -> Hours:
    """The hours of `day` that are in `hours`."""
    return Hours(max(day * DAY, hours.first), min((day + 1) * DAY, hours.end))


async def portion(store: Store, hours: Hours) -> list[Portion]:
    """`hours` in portions that may be asked at once; none for days without rows. Errors: StoreError."""
    first = hours.first // DAY
    is_one_day = hours.end <= (first + 1) * DAY
    portions: list[Portion] = []
    for day in [first] if is_one_day else await days(store, hours):
        result = await store.ask(_BY_HOUR, _limits(cut(day, hours)), timeout_seconds=QUESTION_SECONDS)
        size = ROWS_A_QUESTION + 1
        for hour, count in ((int(str(hour)), int(str(count))) for hour, count in result.rows):
            if size + count <= ROWS_A_QUESTION:
                portions[-1] = Portion(Hours(portions[-1].hours.first, hour + 1), 1)
                size += count
            else:
                portions.append(Portion(Hours(hour, hour + 1), -(-count // ROWS_A_QUESTION)))
                size = count
    return portions


async def count_rows(
    store: Store, portions: Sequence[Portion], place: Callable[[str], str]
) -> dict[str, Rows]:
    """Bucket -> rows. `place` says in which bucket an hour's bucket is counted. Errors: StoreError."""
    found: dict[str, Rows] = {}
    for one in portions:
        for number in range(one.slices):
            result = await store.ask(
                _BY_BUCKET,
                {**_limits(one.hours), "slices": one.slices, "number": number},
                timeout_seconds=QUESTION_SECONDS,
            )
            for project_id, hour, count, distinct in result.rows:
                rows = found.setdefault(place(f"{project_id}|{hour}"), Rows())
                rows.count += int(str(count))
                rows.distinct += int(str(distinct))
    return found


def _limits(hours: Hours) -> dict[str, int]:
    return {"from": hours.first * ledger.HOUR_MS, "to": hours.end * ledger.HOUR_MS}
