"""Random events, random filters of them, and how to ask: what the tests of the SQL work on."""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from app.query import read_query
from app.scope import Scope
from tests.query_engine import Engine

EVENT_COUNT = 300
SCALARS: list[Any] = [
    *(0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 7, 7, 7),
    *(0.0, -0.0, 1.0, 0.5, -2.5, 2.0**53, 2.0**63, 2.0**64, 1e19, 1e21, 1e22, 1e30, 5e-324, 1e308, 1.7e308),
    *(
        "",
        "1",
        "true",
        "null",
        "[1]",
        "é",
        "😀",
        "a/b",
        'q"\\',
        "line\nbreak\t",
        "\u0001",
        "{p0:String}",
        "A",
        "a",
    ),
    *(True, False, None),
]
ARRAYS: list[Any] = [
    *([], [1, 2], [1.0, 2.0], [1.5], ["a", "b/\n"], [True], [2**53 + 1, 0.5], [-0.0, 1e300], ["", "null"]),
    *([2**63, 1], [2**64 - 1, -1, 7], [2**63 - 1], [False, True]),
]
PATTERNS = [
    "",
    "^a",
    "a$",
    "^.$",
    "A|é",
    "(?i)^A",
    "[0-9]",
    "e.*k",
    "\\x01",
    "b.\\w",
    "^$",
    "😀",
    "\\t",
    "(a|b)/?",
]
CUSTOM = [
    "x",
    "X",
    "a b",
    "null",
    "size0",
    "Int64",
    "$x-",
    "event_namex",
    "n.a",
    "n.null",
    "n.a b",
    "n",
    "metric_value",
]
TEXTS = ["event_name", "customer_identifier", "ip_country", "utm_source"]
MOMENTS = [
    "1970-01-01T00:00:00.000+00:00",
    "1970-01-01T05:00:00.001+00:00",
    "2018-11-04T02:59:59.999+00:00",  # São Paulo has no midnight on this day
    "2018-11-04T03:00:00.000+00:00",
    "2024-03-31T00:59:59.999+00:00",  # Berlin skips an hour
    "2024-03-31T01:00:00.000+00:00",
    "2024-10-27T00:30:00.000+00:00",  # Berlin repeats one
    "2024-10-27T01:30:00.000+00:00",
    "2024-12-31T23:30:00.000+00:00",
    "2099-12-31T23:59:59.998+00:00",
]
ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/New_York", "Asia/Kolkata"]
WHOLE = {"time_period": {"start": "1970-01-01", "end": "2100-12-31"}, "limit": 10_000}


def random_events(seed: int) -> list[dict[str, Any]]:
    """Events as Python values: columns and custom fields together."""
    rng = random.Random(seed)
    events: list[dict[str, Any]] = []
    for index in range(EVENT_COUNT):
        event: dict[str, Any] = {
            "event_name": rng.choice(["view", "click"]),
            "event_time": int(datetime.fromisoformat(rng.choice(MOMENTS)).timestamp() * 1000),
            "time_recorded": 1_700_000_000_000 + index,
            "unique_req_id": f"{index:032x}",
            "customer_identifier": rng.choice([None, "c1", "c2"]),
            "ip_country": rng.choice([None, "DE", "null"]),
            "utm_source": rng.choice([None, "", "News"]),
            "is_bot": rng.choice([None, True, False]),
        }
        for name in CUSTOM:
            if "." not in name and name != "n" and rng.random() < 0.7:
                event[name] = rng.choice(SCALARS if rng.random() < 0.9 else ARRAYS)
        if not isinstance(event.get("metric_value", 0), int | float) or event.get("metric_value") is True:
            del event["metric_value"]
        kinds = ["missing", "scalar", "object", "object"]
        kind = rng.choice(kinds)
        if kind == "scalar":
            event["n"] = rng.choice(SCALARS)
        elif kind == "object":
            event["n"] = {name: rng.choice(SCALARS) for name in ("a", "null", "a b") if rng.random() < 0.8}
        events.append(event)
    return events


COLUMNS = ("event_time", "time_recorded", "unique_req_id", "ip_country", "is_bot")


def to_row(event: dict[str, Any]) -> dict[str, Any]:
    """The event as a row: its columns, and the body that a client would have sent."""
    columns = ("event_name", "customer_identifier", "utm_source", *COLUMNS)
    body = {name: value for name, value in event.items() if name not in COLUMNS}
    if event.get("customer_identifier") is None:
        body.pop("customer_identifier", None)
    row = {name: event.get(name) for name in columns}
    row |= {"customer_identifier": event.get("customer_identifier") or "", "event_id": ""}
    return {**row, "body": json.dumps(body, ensure_ascii=False)}


EVENTS = random_events(7)


def scope(customer: str | None = None) -> Scope:
    return Scope("p", customer)


def ask(engine: Engine, request: dict[str, Any], customer: str | None = None) -> list[dict[str, Any]]:
    query = read_query(json.dumps({**WHOLE, **request}).encode(), 1_700_000_000_000)
    answer = engine.answer(query, scope(customer))
    assert answer["row_count"] == len(answer["data"])
    data: list[dict[str, Any]] = answer["data"]
    return data


def filters() -> st.SearchStrategy[dict[str, Any]]:
    scalars = st.sampled_from([value for value in SCALARS if value is not None])
    ordered = st.sampled_from([v for v in SCALARS if v is not None and not isinstance(v, bool)])
    comparison = st.sampled_from(
        ["greater_than", "greater_than_or_equals", "less_than", "less_than_or_equals"]
    )
    texts = st.sampled_from(["view", "c1", "DE", "", "null", "News", "news"])

    def made(name: Any, op: Any, value: Any) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"field_name": name, "op": op, "value": value})

    custom, text = st.sampled_from(CUSTOM), st.sampled_from(TEXTS)
    strings = st.sampled_from([*(v for v in SCALARS if isinstance(v, str)), "i", "ew", "null"])
    containment, ends = (
        st.sampled_from(["contains", "not_contains"]),
        st.sampled_from(["starts_with", "ends_with"]),
    )
    equality, null = st.sampled_from(["equals", "not_equals"]), st.sampled_from(["is_null", "is_not_null"])
    return st.one_of(
        made(custom, equality, scalars),
        made(custom, comparison, ordered),
        made(custom, st.sampled_from(["in", "not_in"]), st.lists(scalars, min_size=1, max_size=8)),
        made(custom, containment, scalars),
        made(st.one_of(custom, text), ends, strings),
        made(st.one_of(custom, text), st.just("matches"), st.sampled_from(PATTERNS)),
        made(text, containment, strings),
        made(text, equality, texts),
        made(text, comparison, texts),
        made(text, st.sampled_from(["in", "not_in"]), st.lists(texts, min_size=1, max_size=3)),
        made(st.just("is_bot"), equality, st.booleans()),
        st.fixed_dictionaries({"field_name": st.sampled_from([*CUSTOM, *TEXTS, "is_bot"]), "op": null}),
    )


def conditions() -> st.SearchStrategy[list[dict[str, Any]]]:
    """`filters` with nested `or`."""
    one = st.recursive(
        filters(),
        lambda inner: st.fixed_dictionaries(
            {"or": st.lists(inner | st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=3)}
        ),
        max_leaves=5,
    )
    return st.lists(one, max_size=2)
