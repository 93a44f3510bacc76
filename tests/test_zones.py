"""Days, hours and periods around every change of the clock, in zones that do it in every way there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
import tzdata

from app.query import read_query
from app.query_request import Bucket
from app.sql_buckets import bucket_start
from app.time_period import Period, read_zone
from app.timestamp import MAX_MS
from tests.query_engine import Engine
from tests.query_oracle import at, bucket_of

# An hour; half an hour; never; a month a year; at midnight, also backwards; a day skipped; for ever on one day.
ZONES = [
    *(
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
    ),
    *(
        "America/Sao_Paulo",
        "Pacific/Apia",
        "America/Havana",
        "America/Vancouver",
        "Asia/Tehran",
        "Asia/Pyongyang",
    ),
]
AROUND = [sign * seconds for seconds in (0, 1, 60, 1799, 1800, 3599, 3600, 7200, 86_400) for sign in (1, -1)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        engine.run("CREATE TABLE moments (t DateTime64(3, 'UTC')) ENGINE = Memory")
        yield engine


def test_the_engine_has_the_same_database_of_time_zones(engine: Engine) -> None:
    """Where this fails after an update of one of the two: update the other (pyproject.toml, constraints.txt)."""
    [[version]] = engine.run("SELECT value FROM system.build_options WHERE name = 'TZDATA_VERSION'")
    assert version == tzdata.IANA_VERSION


def changes(zone: str) -> list[int]:
    """Unix milliseconds of every change of the clock."""
    week = 7 * 86_400_000
    found = []
    for start in range(0, MAX_MS - week, week):
        old, new = start, start + week
        offset = at(new, zone).utcoffset()
        if at(old, zone).utcoffset() == offset:
            continue
        while new - old > 1:
            middle = (old + new) // 2
            old, new = (old, middle) if at(middle, zone).utcoffset() == offset else (middle, new)
        found.append(new)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_a_bucket_begins_where_the_clock_on_the_wall_says(engine: Engine, zone: str) -> None:
    """Around a dozen of the changes, spread over all years."""
    every = changes(zone)
    some = every[:: max(1, len(every) // 12)]
    moments = {change + 1000 * seconds for change in some for seconds in AROUND}
    moments |= {1_700_000_000_123, 0, MAX_MS}
    moments = {moment for moment in moments if 0 <= moment <= MAX_MS}
    engine.run("TRUNCATE TABLE moments")
    values = ", ".join(f"(fromUnixTimestamp64Milli({moment}, 'UTC'))" for moment in moments)
    engine.run(f"INSERT INTO moments VALUES {values}")
    period = Period(0, MAX_MS + 1)
    starts = [bucket_start(one, "t", zone=zone, parameter="{z:String}", period=period) for one in Bucket]
    columns = ", ".join(f"toUnixTimestamp64Milli(toDateTime64({start}, 3, {{z:String}}))" for start in starts)
    rows = engine.run(f"SELECT toUnixTimestamp64Milli(t), {columns} FROM moments", {"z": zone})
    assert len(rows) == len(moments)
    for moment, *found in rows:
        wanted = [bucket_of(moment, one.value, zone) for one in Bucket]
        assert found == wanted, at(moment, zone)


@pytest.mark.parametrize(
    ("words", "zone", "now", "start", "end"),
    [
        # 25 and 23 hours, and half an hour more and less.
        (
            "today",
            "America/New_York",
            "2024-11-03T12:00Z",
            "2024-11-03T00:00-04:00",
            "2024-11-04T00:00-05:00",
        ),
        (
            "yesterday",
            "America/New_York",
            "2024-03-11T12:00Z",
            "2024-03-10T00:00-05:00",
            "2024-03-11T00:00-04:00",
        ),
        (
            "today",
            "Australia/Lord_Howe",
            "2024-04-06T20:00Z",
            "2024-04-07T00:00+11:00",
            "2024-04-08T00:00+10:30",
        ),
        ("today", "Asia/Kathmandu", "2024-01-01T00:00Z", "2024-01-01T00:00+05:45", "2024-01-02T00:00+05:45"),
        # Midnight did not take place; the day begins at one o'clock.
        (
            "today",
            "America/Sao_Paulo",
            "2018-11-04T12:00Z",
            "2018-11-04T01:00-02:00",
            "2018-11-05T00:00-02:00",
        ),
        # Eleven o'clock in the evening comes twice.
        (
            "today",
            "America/Sao_Paulo",
            "2018-02-17T12:00Z",
            "2018-02-17T00:00-02:00",
            "2018-02-18T00:00-03:00",
        ),
        # The 30th of December 2011 did not take place.
        (
            "yesterday",
            "Pacific/Apia",
            "2011-12-31T00:00Z",
            "2011-12-29T00:00-10:00",
            "2011-12-31T00:00+14:00",
        ),
        (
            "this_week",
            "Pacific/Apia",
            "2011-12-31T00:00Z",
            "2011-12-26T00:00-10:00",
            "2012-01-02T00:00+14:00",
        ),
        (
            "this_month",
            "Europe/Berlin",
            "2024-03-31T12:00Z",
            "2024-03-01T00:00+01:00",
            "2024-04-01T00:00+02:00",
        ),
        # Ramadan of 2025.
        (
            "this_month",
            "Africa/Casablanca",
            "2025-02-10T12:00Z",
            "2025-02-01T00:00+01:00",
            "2025-03-01T00:00+00:00",
        ),
        # Midnight comes twice: the day begins at the first.
        ("today", "America/Havana", "2024-11-03T12:00Z", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00"),
    ],
)
def test_a_day_is_as_long_as_it_was(words: str, zone: str, now: str, start: str, end: str) -> None:
    from tests.test_query import ms

    query = read_query(json.dumps({"time_period": words, "timezone": zone}).encode(), ms(now))
    assert query.period == Period(ms(start), ms(end))


def test_zones_are_not_those_of_the_system() -> None:
    moved = read_zone("America/Vancouver")
    assert at(1_800_000_000_000, "America/Vancouver").utcoffset() == timedelta(hours=-7), moved
