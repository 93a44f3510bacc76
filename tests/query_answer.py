"""The rows that a query is answered with, in plain Python: the other half of the oracle (tests/query_oracle.py)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from app.timestamp import parse_timestamp
from tests.query_oracle import at, bucket_of, compute, holds, same, start_of_day, value_of

Json = Any
Event = dict[str, Json]
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
# How far apart moments may be so that none of the buckets lies between them.
STEPS = {
    "minute": MINUTE,
    "5_minutes": MINUTE,
    "hour": 5 * MINUTE,
    "day": HOUR,
    "week": DAY,
    "month": DAY,
    "year": DAY,
}
UNITS = {"minutes": MINUTE, "hours": HOUR, "days": DAY, "weeks": 7 * DAY}


def period_of(request: Json, now_ms: int) -> tuple[int, int]:
    """First millisecond, and the one after the last."""
    asked, zone = request["time_period"], request.get("timezone", "UTC")
    if isinstance(asked, dict):
        return parse_timestamp(asked["start"]), parse_timestamp(asked["end"], 2**53)
    today = at(now_ms, zone).date()
    if asked == "today":
        return start_of_day(today, zone), start_of_day(today + timedelta(days=1), zone)
    if asked == "yesterday":
        midnight = start_of_day(today, zone)
        return start_of_day(at(midnight - 1, zone).date(), zone), midnight
    if asked == "this_week":
        monday = today - timedelta(days=today.weekday())
        return start_of_day(monday, zone), start_of_day(monday + timedelta(days=7), zone)
    if asked == "this_month":
        after = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
        return start_of_day(today.replace(day=1), zone), start_of_day(after, zone)
    _, count, unit = asked.split("_")
    if unit in UNITS:
        return now_ms - int(count) * UNITS[unit], now_ms + 1
    moment, months = at(now_ms, zone), int(count) * (12 if unit == "years" else 1)
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    for day in range(moment.day, 0, -1):
        try:
            start = moment.replace(year=year, month=month + 1, day=day)
        except ValueError:  # a month without such a day
            continue
        return int(start.timestamp()) * 1000 + now_ms % 1000, now_ms + 1
    raise AssertionError("a month without days")


def evaluate(request: Json, events: Sequence[Event], now_ms: int = 0) -> list[dict[str, Json]]:
    """The answer's `data` for a request with groups or computations; buckets as Unix milliseconds."""
    start, end = period_of(request, now_ms)
    kept = [event for event in _within(request, events, now_ms) if holds(event, request.get("filters", []))]
    length, zone = request.get("group_by_time"), request.get("timezone", "UTC")
    names = request.get("group_by", [])
    groups: dict[Json, list[Event]] = {}
    if not names and length is None:
        groups[()] = []
    for event in kept:
        keys = [bucket_of(event["event_time"], length, zone)] if length else []
        key = tuple(same(value) for value in (*keys, *(value_of(event, name) for name in names)))
        groups.setdefault(key, []).append(event)
    if request.get("fill"):
        for others in {key[1:] for key in groups} if names else {()}:
            for bucket in _buckets(start, end, length, zone):
                groups.setdefault((same(bucket), *others), [])
    columns = (["event_time"] if length else []) + names
    rows = []
    for key, members in groups.items():
        row = {column: _plain(value) for column, value in zip(columns, key, strict=True)}
        for item in request.get("computations", []):
            name = item.get("field_name")
            output = item["function"] if name is None else f"{item['function']}_{name}"
            row[item.get("as", output)] = compute(item["function"], name, members)
        rows.append(row)
    order = [(term["field_name"], term.get("direction") == "DESC") for term in request.get("order_by", [])]
    rows.sort(key=functools.cmp_to_key(_comparer(order + [(column, False) for column in columns])))
    offset = request.get("offset", 0)
    return rows[offset : offset + request.get("limit", 1000)]


def _plain(key: Json) -> Json:
    if key is None:
        return None
    kind, value = key
    return [_plain(one) for one in value] if kind == "array" else value


def _comparer(order: list[tuple[str, bool]]) -> Callable[[Json, Json], int]:
    def compare(left: Json, right: Json) -> int:
        for column, descending in order:
            a, b = _rank(left[column]), _rank(right[column])
            if a == b:
                continue
            if a[0] != b[0]:  # kinds keep their order whatever the direction; nulls are always last
                return -1 if a[0] < b[0] else 1
            return (-1 if a[1] < b[1] else 1) * (-1 if descending else 1)
        return 0

    return compare


def _rank(value: Json) -> tuple[int, Json]:
    if value is None:
        return 3, 0
    if isinstance(value, str):
        return 1, value.encode()
    if isinstance(value, bool | list):
        return 2, _text(value).encode()
    return 0, value


def _text(value: Json) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return _number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """As JavaScript writes it, and the engine."""
    if value == 0:
        return "0"
    digits, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = digits.partition(".")
    fraction = "" if fraction == "0" else fraction
    power = int(exponent or 0) + len(whole)
    digits = (whole + fraction).lstrip("0")
    power -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= power <= 21:
        return sign + digits + "0" * (power - len(digits))
    if 0 < power <= 21:
        return f"{sign}{digits[:power]}.{digits[power:]}"
    if -6 < power <= 0:
        return f"{sign}0.{'0' * -power}{digits}"
    tail = f".{digits[1:]}" if digits[1:] else ""
    return f"{sign}{digits[0]}{tail}e{power - 1}"


def newest_first(request: Json, events: Sequence[Event], now_ms: int = 0) -> list[str]:
    """The ids of the raw events that answer a request without groups."""
    kept = [event for event in _within(request, events, now_ms) if holds(event, request.get("filters", []))]
    kept.sort(key=lambda one: (one["event_time"], one["time_recorded"], one["unique_req_id"]), reverse=True)
    order = [(term["field_name"], term.get("direction") == "DESC") for term in request.get("order_by", [])]
    compare = _comparer(order)
    kept.sort(
        key=functools.cmp_to_key(
            lambda a, b: compare(*({name: value_of(one, name) for name, _ in order} for one in (a, b)))
        )
    )
    offset = request.get("offset", 0)
    return [event["unique_req_id"] for event in kept[offset : offset + request.get("limit", 1000)]]


def _within(request: Json, events: Sequence[Event], now_ms: int) -> list[Event]:
    start, end = period_of(request, now_ms)
    return [event for event in events if start <= event["event_time"] < end]


def _buckets(start: int, end: int, length: str, zone: str) -> set[int]:
    moments = [*range(start, end, STEPS[length]), end - 1]
    return {bucket_of(moment, length, zone) for moment in moments}
