"""What a query means, in plain Python: the second opinion that the SQL is held against.

It works on the request as a client writes it and on events as Python values, and shares no code with
`app.sql`. Slow and obvious on purpose.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

from app.time_period import read_zone  # the same database of time zones; what is done with it is our own
from app.timestamp import parse_timestamp

Json = Any
Event = dict[str, Json]  # columns and custom fields together; event_time in Unix milliseconds

MAX_FLOAT = Fraction(sys.float_info.max)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rough(float):
    """A result that depends on the order of additions: right within the rounding of what was added.

    `or_null`: on the way there, in some order, may lie numbers beyond the range of floats.
    """

    magnitude: float
    or_null: bool

    def __new__(cls, value: float, magnitude: float, *, or_null: bool = False) -> Rough:
        rough = super().__new__(cls, value)
        rough.magnitude = magnitude
        rough.or_null = or_null
        return rough


def alike(actual: Json, wanted: Json) -> bool:
    """Is `actual`, a cell of an answer, the result that is `wanted`?"""
    if isinstance(wanted, Rough):
        if actual is None:
            return wanted.or_null
        close = isinstance(actual, int | float) and abs(actual - wanted) <= 1e-12 * wanted.magnitude
        return close or actual == wanted
    if isinstance(wanted, list) and isinstance(actual, list):  # whose numbers are floats
        return len(actual) == len(wanted) and all(
            float(a) == b if type(a) is int and type(b) is float else alike(a, b)
            for a, b in zip(actual, wanted, strict=True)
        )
    if type(wanted) is float and type(actual) is int and abs(actual) >= 2**64:
        actual = float(actual)  # the text of a large float, padded with zeros
    return bool(same(actual) == same(wanted))


def value_of(event: Event, name: str) -> Json:
    """The field called `name`; objects have no value of their own, and numbers in an array are floats."""
    found = event.get(name)
    if name not in event:
        parent, _, child = name.partition(".")
        inside = event.get(parent)
        found = inside.get(child) if child and isinstance(inside, dict) else None
    if isinstance(found, list) and not any(isinstance(one, bool | str) for one in found):
        return [float(one) for one in found]
    return None if isinstance(found, dict) else found


def same(value: Json) -> Json:
    """A hashable stand-in: equal exactly for values that the language calls equal."""
    if value is None:
        return None
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)  # Python compares integers with floats exactly, and hashes them alike
    if isinstance(value, str):
        return ("string", value)
    return ("array", tuple(map(same, value)))


def holds(event: Event, conditions: Sequence[Json]) -> bool:
    """Do all of the conditions hold? An element of an `or` is a condition or a list of them."""
    return all(
        any(holds(event, one if isinstance(one, list) else [one]) for one in item["or"])
        if "or" in item
        else matches(event, item)
        for item in conditions
    )


SETS = ("in", "not_in")
OPPOSITES = {"not_equals": "equals", "not_in": "in", "not_contains": "contains", "is_not_null": "is_null"}


def matches(event: Event, item: Json) -> bool:
    value, op, wanted = value_of(event, item["field_name"]), item["op"], item.get("value")
    if item["field_name"] in ("event_time", "time_recorded") and wanted is not None:
        wanted = [parse_timestamp(one) for one in wanted] if op in SETS else parse_timestamp(wanted)
        return matches({"moment": value}, {"field_name": "moment", "op": op, "value": wanted})
    if op in OPPOSITES:
        return not matches(event, {**item, "op": OPPOSITES[op]})
    if op == "is_null":
        return value is None
    if op == "equals":
        return bool(same(value) == same(wanted))
    if op == "in":
        return same(value) in [same(one) for one in wanted]
    if op == "contains" and isinstance(value, list):
        wanted = float(wanted) if type(wanted) is int else wanted
        return same(wanted) in [same(one) for one in value]
    if op in ("contains", "starts_with", "ends_with", "matches"):
        return isinstance(value, str) and isinstance(wanted, str) and in_text(op, value, wanted)
    left, right = same(value), same(wanted)
    if left is None or left[0] != right[0]:
        return False
    a, b = left[1], right[1]
    if left[0] == "string":
        a, b = a.encode(), b.encode()
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "greater_than": lambda a, b: a > b,
        "greater_than_or_equals": lambda a, b: a >= b,
        "less_than": lambda a, b: a < b,
        "less_than_or_equals": lambda a, b: a <= b,
    }
    return compare[op](a, b)


def in_text(op: str, text: str, wanted: str) -> bool:
    if op == "contains":
        return wanted in text
    if op == "starts_with":
        return text.startswith(wanted)
    if op == "ends_with":
        return text.endswith(wanted)
    # RE2's end is the end: not also before a line break there.
    return re.search(wanted.replace("$", r"\Z"), text, re.DOTALL | re.ASCII) is not None


def bucket_of(moment_ms: int, length: str, zone: str) -> int:
    """Unix milliseconds of the start of the bucket."""
    minutes = {"minute": 1, "5_minutes": 5, "hour": 60}.get(length)
    if minutes is not None:
        return _short_bucket(moment_ms, minutes * 60_000, zone)
    day = at(moment_ms, zone).date()
    if length == "week":
        day -= timedelta(days=day.weekday())
    elif length == "month":
        day = day.replace(day=1)
    elif length == "year":
        day = day.replace(month=1, day=1)
    return start_of_day(day, zone)


def start_of_day(day: date, zone: str) -> int:
    """Its midnight, the first if there are two; where there is none, when the clock jumped over it."""
    return int(datetime(day.year, day.month, day.day, tzinfo=read_zone(zone)).timestamp()) * 1000


def _short_bucket(moment_ms: int, size: int, zone: str) -> int:
    """By the clock on the wall, but not from before it was last changed."""
    offset = _offset(moment_ms, zone)
    start = (moment_ms + offset) // size * size - offset
    if _offset(start, zone) == offset:
        return start
    old, new = start, moment_ms
    while new - old > 1:
        middle = (old + new) // 2
        old, new = (old, middle) if _offset(middle, zone) == offset else (middle, new)
    return new


def at(moment_ms: int, zone: str) -> datetime:
    return (_EPOCH + timedelta(milliseconds=moment_ms)).astimezone(read_zone(zone))


def _offset(moment_ms: int, zone: str) -> int:
    return int((at(moment_ms, zone).utcoffset() or timedelta()).total_seconds()) * 1000


LEVELS = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def _sequence(event: Event) -> Json:
    return event["event_time"], event["time_recorded"], event["unique_req_id"]


def _quantile(numbers: list[float], level: float) -> Json:
    """Interpolated between neighbours; null where they are further apart than a float can say."""
    place = level * (len(numbers) - 1)
    below = numbers[math.floor(place)]
    above = numbers[min(math.floor(place) + 1, len(numbers) - 1)]
    if not math.isfinite(above - below):
        return Rough(below, abs(below), or_null=True) if place.is_integer() else None
    return Rough(below + (place - math.floor(place)) * (above - below), max(abs(below), abs(above)))


def _deviation(numbers: list[float]) -> Json:
    """Of all numbers, not of a sample; null where the squares are larger than a float can be."""
    exact = [Fraction(number) for number in numbers]
    mean = sum(exact, Fraction(0)) / len(exact)
    squares = sum(((number - mean) ** 2 for number in exact), Fraction(0))
    if squares > MAX_FLOAT or max(exact) - min(exact) > MAX_FLOAT:
        return None
    found = _root(squares / len(exact))
    if squares < Fraction(1e-280):  # smaller than a float can be
        return Rough(found, 1e12 * max(map(abs, numbers)))
    return Rough(found, 1000 * max(map(abs, numbers)), or_null=squares > MAX_FLOAT / 8)


def _root(exact: Fraction) -> float:
    """Also of what is smaller than a float can be."""
    scale = 2**1200
    return math.isqrt(int(exact * scale * scale)) / scale if exact < Fraction(1e-200) else math.sqrt(exact)


def compute(function: str, name: str | None, events: Sequence[Event]) -> Json:
    if name is None:
        return len(events)
    values = [value for value in (value_of(event, name) for event in events) if value is not None]
    if function == "count":
        return len(values)
    if function == "count_distinct":
        return len(set(map(same, values)))
    if function in ("first", "last"):
        having = [event for event in events if value_of(event, name) is not None]
        pick = min if function == "first" else max
        return value_of(pick(having, key=_sequence), name) if having else None
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers:
        return None
    if function in LEVELS:
        return _quantile(sorted(map(float, numbers)), LEVELS[function])
    if function == "stddev":
        return _deviation([float(number) for number in numbers])
    if function in ("min", "max"):
        return min(numbers) if function == "min" else max(numbers)
    if function == "sum" and all(
        isinstance(v, int) or (v.is_integer() and abs(v) < 2.0**64) for v in numbers
    ):
        return sum(map(int, numbers))
    total = sum(map(Fraction, numbers), Fraction(0))
    sizes = sum((abs(Fraction(number)) for number in numbers), Fraction(0))
    if abs(total) > MAX_FLOAT:
        return None
    exact = total / len(numbers) if function == "avg" else total
    return Rough(float(exact), float(min(sizes, MAX_FLOAT)), or_null=sizes > MAX_FLOAT)
