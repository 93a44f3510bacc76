"""Random events and random queries of everything that the language has, for tests/test_oracle.py.

Names are few and values are drawn from what the events hold, so that filters find something, groups have more
than one member and one field holds every type.
"""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from app.timestamp import MAX_MS, format_timestamp
from tests.query_data import ARRAYS, MOMENTS, PATTERNS, SCALARS, TEXTS

Json = Any
ZONES = [
    *(
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
    ),
    *("America/Sao_Paulo", "Pacific/Apia", "America/Havana", "America/Vancouver", "Asia/Kolkata"),
]
TOP = ["x", "a b", "null", "$x-"]
NESTED = ["n.a", "n.null", "n.a b"]
CUSTOM = [*TOP, "n", *NESTED]
NEAR = [int(datetime.fromisoformat(moment).timestamp() * 1000) for moment in MOMENTS]
NEAR += [
    int(datetime.fromisoformat(moment).timestamp() * 1000)
    for moment in (
        "2011-12-30T10:00Z",
        "2024-04-06T15:00Z",
        "2024-04-06T14:45Z",
        "2024-11-03T04:30Z",
        "2025-02-23T02:00Z",
    )
]
LENGTHS = ["minute", "5_minutes", "hour", "day", "week", "month", "year"]
FEW_MOMENTS = {"minute": 3_600_000, "5_minutes": 7_200_000, "hour": 86_400_000, "day": 40 * 86_400_000}
MORE_STRINGS = [
    "\0",
    "a\0b",
    "é",
    "e\u0301",
    "\u00df",
    "SS",
    "𝒳",
    "👩‍👩‍👧",
    "a\n",
    "\n",
    "\ufeff",
    "\u2028",
    "\x7f",
    "٣",
    "１",
]
MORE_NUMBERS = [-(2**63) + 1, 2**63 - 1, 2**64 - 1, 1e-7, 1e16, 1e21, 123456789.125, -1e308, 1.5, 2, 3, 3.0]
ORDERED_FUNCTIONS = ["count", "count_distinct", "min", "max", "first", "last"]
ROUGH_FUNCTIONS = ["sum", "avg", "median", "p90", "p95", "p99", "stddev"]

numbers = st.one_of(
    st.sampled_from(
        [v for v in SCALARS if isinstance(v, int | float) and not isinstance(v, bool)] + MORE_NUMBERS
    ),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**54), 2**54).map(float),
)
strings = st.one_of(
    st.sampled_from([v for v in SCALARS if isinstance(v, str)] + MORE_STRINGS),
    st.text(max_size=4),
    st.text(alphabet="ab", max_size=3),
)
scalars = st.one_of(numbers, strings, st.booleans())
arrays = st.one_of(
    st.sampled_from(ARRAYS),
    st.lists(numbers, max_size=3),
    st.lists(strings, max_size=3),
    st.lists(st.booleans(), max_size=2),
)
values = st.one_of(scalars, scalars, scalars, arrays, st.none())
moments = st.one_of(
    st.sampled_from(NEAR),
    st.sampled_from(NEAR).flatmap(lambda m: st.integers(m - 7_200_000, m + 7_200_000)),
    st.integers(0, MAX_MS),
)


@st.composite
def event_lists(draw: st.DrawFn) -> list[dict[str, Json]]:
    """Events as Python values: columns and custom fields together; times in Unix milliseconds."""
    few = draw(st.lists(values, min_size=1, max_size=6))  # what is drawn again and again
    value = st.one_of(st.sampled_from(few), values)
    inside = st.dictionaries(st.sampled_from(["a", "null", "a b"]), value, max_size=3)
    custom = st.fixed_dictionaries({}, optional={**dict.fromkeys(TOP, value), "n": value | inside | inside})
    events = []
    for index in range(draw(st.integers(0, 14))):
        columns = {
            "event_name": draw(st.sampled_from(["view", "click"])),
            "event_time": max(0, min(MAX_MS, draw(moments))),
            "time_recorded": 1_700_000_000_000 + draw(st.integers(0, 2)),
            "unique_req_id": f"{index:032x}",
            "customer_identifier": draw(st.sampled_from([None, "c1", "ü\0"])),
            "ip_country": draw(st.sampled_from([None, "DE", "null", ""])),
            "utm_source": draw(st.sampled_from([None, "", "News"])),
            "is_bot": draw(st.sampled_from([None, True, False])),
        }
        events.append({**draw(custom), **columns})
    return events


def many_events() -> list[dict[str, Json]]:
    """Few different groups of many members, in which numbers are near one another: a quantile that is one
    hundredth off, or one of two neighbours, is another number here."""
    rng = random.Random(5)
    scalars = [value for value in SCALARS if value is not None]
    events = []
    for index in range(120):
        number: Json = rng.choice([rng.randrange(1000), rng.random() * 100, float(rng.randrange(20))])
        event: dict[str, Json] = {
            "x": number if rng.random() < 0.9 else rng.choice(scalars),
            "a b": rng.choice(["a", "b", "ab", 1, 1.0, True, None, ["a"], [1, 2.5]]),
            "$x-": rng.choice(scalars),
            "null": rng.choice([rng.randrange(2**62), -rng.randrange(2**62), 2**63 + rng.randrange(9), 0.5]),
            "n": rng.choice([{"a": rng.randrange(50), "null": rng.choice("ab")}, {"a b": number}, "n"]),
        }
        if rng.random() < 0.2:
            del event[rng.choice(TOP)]
        events.append(
            event
            | {
                "event_name": rng.choice(["view", "click"]),
                "event_time": rng.choice(NEAR) + rng.randrange(7_200_000),
                "time_recorded": 1_700_000_000_000 + rng.randrange(3),
                "unique_req_id": f"{index:032x}",
                "customer_identifier": rng.choice([None, "c1", "c2"]),
                "ip_country": rng.choice([None, "DE", "null"]),
                "utm_source": rng.choice([None, "", "News"]),
                "is_bot": rng.choice([None, True, False]),
            }
        )
    for pair in zip(events[::2], events[1::2], strict=True):  # what is recorded later decides, then the id
        if rng.random() < 0.3:
            pair[0]["event_time"] = pair[1]["event_time"]
    return events


def pool_of(events: list[dict[str, Json]]) -> list[Json]:
    """Every scalar in the events, and what is next to it."""
    found: list[Json] = []
    for event in events:
        for held in (*event.values(), *(one for one in event.values() if isinstance(one, dict))):
            inner = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
            found += [one for one in inner if isinstance(one, str | int | float)]
    for one in list(found):
        if isinstance(one, str):
            found += [one[1:], one[:-1], one + "a"]
        elif not isinstance(one, bool):
            found += [float(one)] if abs(one) < 2**70 else []
            found += [one + 1] if isinstance(one, int) and one < 2**64 - 1 else []
    return found or [0]


def one_filter(pool: list[Json]) -> st.SearchStrategy[Json]:
    """A condition whose value probably means something."""
    value = st.one_of(st.sampled_from(pool), scalars)
    ordered = value.filter(lambda one: not isinstance(one, bool))
    text = st.one_of(st.sampled_from([one for one in pool if isinstance(one, str)] or ["a"]), strings)
    escaped = text.filter(lambda one: "$" not in one).map(re.escape)
    pattern = st.one_of(st.sampled_from(PATTERNS), escaped)
    custom, column = st.sampled_from(CUSTOM), st.sampled_from(TEXTS)
    any_name = st.sampled_from([*CUSTOM, *TEXTS, "is_bot", "event_time"])
    moment = moments.map(lambda one: format_timestamp(max(0, min(MAX_MS, one))))
    equality, sets = st.sampled_from(["equals", "not_equals"]), st.sampled_from(["in", "not_in"])
    containment, ends = (
        st.sampled_from(["contains", "not_contains"]),
        st.sampled_from(["starts_with", "ends_with"]),
    )
    comparison = st.sampled_from(
        ["greater_than", "greater_than_or_equals", "less_than", "less_than_or_equals"]
    )

    def made(name: Json, op: Json, value: Json) -> st.SearchStrategy[Json]:
        return st.fixed_dictionaries({"field_name": name, "op": op, "value": value})

    return st.one_of(
        made(custom, equality, value),
        made(custom, comparison, ordered),
        made(custom, sets, st.lists(value, min_size=1, max_size=5)),
        made(custom, containment, value),
        made(custom | column, ends, text),
        made(custom | column, st.just("matches"), pattern),
        made(column, equality | comparison | containment, text),
        made(column, sets, st.lists(text, min_size=1, max_size=3)),
        made(st.just("is_bot"), equality, st.booleans()),
        made(st.just("event_time"), equality | comparison, moment),
        st.fixed_dictionaries({"field_name": any_name, "op": st.sampled_from(["is_null", "is_not_null"])}),
    )


def filter_trees(pool: list[Json]) -> st.SearchStrategy[list[Json]]:
    """`filters`: two in three queries have some."""
    leaf = one_filter(pool)
    branch = st.recursive(
        leaf,
        lambda inner: st.fixed_dictionaries(
            {"or": st.lists(inner | st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=3)}
        ),
        max_leaves=5,
    )
    return st.one_of(
        st.just([]), st.lists(leaf, min_size=1, max_size=2), st.lists(branch, min_size=1, max_size=2)
    )


@st.composite
def periods(draw: st.DrawFn, events: list[dict[str, Json]], length: str | None) -> Json:
    """A `time_period`, short where empty buckets are to be listed."""
    around = draw(st.sampled_from([event["event_time"] for event in events] or NEAR))
    reach = FEW_MOMENTS.get(length or "", 400 * 86_400_000)
    start = max(0, around - draw(st.integers(0, reach // 2)))
    end = min(MAX_MS + 1, max(around, start) + 1 + draw(st.integers(0, reach // 2)))
    start = min(start, end - 1)
    return {"start": format_timestamp(start), "end": format_timestamp(end)}


WHOLE = {"start": "1970-01-01", "end": "2100-12-31"}
WORDS = st.one_of(
    st.sampled_from(["today", "yesterday", "this_week", "this_month"]),
    st.builds(
        "minus_{}_{}".format,
        st.integers(1, 30),
        st.sampled_from(["minutes", "hours", "days", "weeks", "months", "years"]),
    ),
)


# Made once: hypothesis looks through each strategy that it meets for the first time, which took most of the time.
FIELDS = [*CUSTOM, *TEXTS, "is_bot"]
_zones, _directions = st.sampled_from(ZONES), st.sampled_from(["ASC", "DESC"])
_limits, _offsets = st.sampled_from([1, 3, 10_000, 10_000]), st.sampled_from([0, 0, 0, 2])
_one_in_eight = st.integers(0, 7)
_raw_orders = st.lists(st.sampled_from([*CUSTOM, *TEXTS, "event_time", "is_bot"]), max_size=2)
_groups: st.SearchStrategy[list[str]] = st.just([]) | st.lists(
    st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True
)
_lengths = st.sampled_from(LENGTHS)
_of_numbers = st.tuples(
    st.sampled_from([*ORDERED_FUNCTIONS, *ROUGH_FUNCTIONS]),
    st.sampled_from(["x", "x", "n.a", "null", *CUSTOM]),
)
_of_any = st.tuples(st.sampled_from(["count", "count_distinct", "first", "last"]), st.sampled_from(TEXTS))
_numbers = st.sampled_from([0, 1, 2, 3, 4])
_computations = [
    st.lists(_of_numbers | _of_numbers | _of_any, min_size=number, max_size=number, unique=True)
    for number in range(5)
]
_names = st.sampled_from(["rows", "§`'\"\\", "count"])


@st.composite
def requests(
    draw: st.DrawFn, events: list[dict[str, Json]], filters: st.SearchStrategy[list[Json]]
) -> dict[str, Json]:
    """One query over `events`; `filters` are `filter_trees` of their pool."""
    request: dict[str, Json] = {"filters": draw(filters), "timezone": draw(_zones)}
    request["time_period"] = draw(st.one_of(st.just(WHOLE), st.just(WHOLE), periods(events, None), WORDS))
    request["limit"] = draw(_limits)
    request["offset"] = draw(_offsets)
    if draw(_one_in_eight) == 0:  # raw events
        names = draw(_raw_orders)
        request["order_by"] = [{"field_name": name, "direction": draw(_directions)} for name in names]
        return request
    groups = draw(_groups)
    outputs = list(groups)
    if draw(st.booleans()):
        length = request["group_by_time"] = draw(_lengths)
        outputs.append("event_time")
        if draw(st.booleans()):
            request |= {"fill": True, "time_period": draw(periods(events, length))}
    wanted = draw(_computations[draw(_numbers)])
    computations: list[Json] = [{"function": function, "field_name": name} for function, name in wanted]
    if (not outputs and not wanted) or draw(st.booleans()):
        computations.append({"function": "count", "as": draw(_names)})
        outputs.append(computations[-1]["as"])
    outputs += [f"{function}_{name}" for function, name in wanted if function not in ROUGH_FUNCTIONS]
    ordered = draw(st.lists(st.sampled_from(outputs), max_size=2)) if outputs else []
    request |= {"group_by": groups, "computations": computations}
    request["order_by"] = [{"field_name": name, "direction": draw(_directions)} for name in ordered]
    return request


def now_of(events: list[dict[str, Json]]) -> int:
    """A present from which rolling periods find some of the events."""
    past = [event["event_time"] for event in events if event["event_time"] > 31 * 366 * 86_400_000]
    return max(past, default=int(datetime(2024, 11, 3, 12, tzinfo=UTC).timestamp()) * 1000)
