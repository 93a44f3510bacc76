"""The SQL against the real engine: random queries must answer what plain Python answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.query import read_query
from app.sql import to_statement
from tests.query_engine import Engine
from tests.query_oracle import Rough, evaluate, same

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
ARRAYS: list[Any] = [[], [1, 2], [1.0, 2.0], [1.5], ["a", "b/\n"], [True]]
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


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        rows = [to_row(event) for event in EVENTS]
        # Several inserts: paths and types then differ from part to part.
        for start in range(0, len(rows), 60):
            engine.insert(rows[start : start + 60])
        # The same data under another project and customer, which no query of ours may see.
        engine.insert([{**row, "project_id": "q"} for row in rows[:50]])
        yield engine


class Scope:
    """Stands for a grant: what a query key may see."""

    def __init__(self, customer: str | None = None) -> None:
        self.project_id = "p"
        self.customer_identifier = customer


def ask(engine: Engine, request: dict[str, Any], customer: str | None = None) -> list[dict[str, Any]]:
    query = read_query(json.dumps({**WHOLE, **request}).encode(), Scope(customer), 1_700_000_000_000)  # type: ignore[arg-type]
    answer = engine.answer(query)
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
    equality, null = st.sampled_from(["equals", "not_equals"]), st.sampled_from(["is_null", "is_not_null"])
    return st.one_of(
        made(custom, equality, scalars),
        made(custom, comparison, ordered),
        made(custom, st.just("in"), st.lists(scalars, min_size=1, max_size=8)),
        made(text, equality, texts),
        made(text, comparison, texts),
        made(text, st.just("in"), st.lists(texts, min_size=1, max_size=3)),
        made(st.just("is_bot"), equality, st.booleans()),
        st.fixed_dictionaries({"field_name": st.sampled_from([*CUSTOM, *TEXTS, "is_bot"]), "op": null}),
    )


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from([*CUSTOM, *TEXTS, "is_bot"]), max_size=2, unique=True))
    request: dict[str, Any] = {"group_by": names, "filters": draw(st.lists(filters(), max_size=2))}
    outputs = list(names)
    if draw(st.booleans()):
        lengths = ["minute", "5_minutes", "hour", "day", "week", "month", "year"]
        request["group_by_time"] = draw(st.sampled_from(lengths))
        request["timezone"] = draw(st.sampled_from(ZONES))
        outputs.append("event_time")
    functions = st.sampled_from(["count", "count_distinct", "sum", "avg", "min", "max"])
    computations: list[dict[str, Any]] = [{"function": "count"}] if draw(st.booleans()) or not outputs else []
    wanted = draw(st.lists(st.tuples(functions, st.sampled_from(CUSTOM)), max_size=3, unique=True))
    computations += [{"function": function, "field_name": name} for function, name in wanted]
    request["computations"] = computations
    outputs += ["count"] if computations and "field_name" not in computations[0] else []
    # Sums of floats depend on the order of addition, so their own order is not comparable.
    outputs += [f"{function}_{name}" for function, name in wanted if function not in ("sum", "avg")]
    ordered = draw(st.lists(st.sampled_from(outputs), max_size=2)) if outputs else []
    request["order_by"] = [
        {"field_name": name, "direction": draw(st.sampled_from(["ASC", "DESC"]))} for name in ordered
    ]
    request["limit"] = draw(st.sampled_from([1, 5, 10_000]))
    request["offset"] = draw(st.sampled_from([0, 2]))
    return request


def alike(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, Rough):
        close = isinstance(actual, int | float) and abs(actual - wanted) <= 1e-12 * wanted.magnitude
        return close or actual == wanted
    if type(wanted) is float and isinstance(actual, int) and abs(actual) >= 2**64:
        actual = float(actual)  # the text of a large float, padded with zeros
    return bool(same(actual) == same(wanted))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_=requests())
def test_random_queries_answer_what_plain_python_answers(engine: Engine, request_: dict[str, Any]) -> None:
    actual = ask(engine, request_)
    wanted = evaluate({**WHOLE, **request_}, EVENTS)
    assert len(actual) == len(wanted)
    for row, expected in zip(actual, wanted, strict=True):
        assert list(row) == list(expected)
        for name, cell in row.items():
            value = int(datetime.fromisoformat(cell).timestamp() * 1000) if name == "event_time" else cell
            assert alike(value, expected[name]), (name, value, expected[name])


def test_sums_of_integers_keep_every_digit(engine: Engine) -> None:
    whole = [
        v for v in (event.get("x") for event in EVENTS) if isinstance(v, int) and not isinstance(v, bool)
    ]
    rows = ask(
        engine,
        {
            "computations": [{"function": "sum", "field_name": "x", "as": "total"}],
            "filters": [{"field_name": "x", "op": "in", "value": sorted(set(whole))}],
        },
    )
    # 0.0, 1.0 and their like equal integers, so `in` finds them too; none of them has a fraction.
    found = [event["x"] for event in EVENTS if same(event.get("x")) in set(map(same, whole))]
    assert rows == [{"total": sum(map(int, found))}]
    assert rows[0]["total"] > 2**64


def test_nothing_found_is_a_count_of_0_and_null_otherwise(engine: Engine) -> None:
    functions = ["count", "count_distinct", "sum", "avg", "min", "max"]
    rows = ask(
        engine,
        {
            "computations": [
                *({"function": function, "field_name": "x", "as": function} for function in functions),
                {"function": "min", "field_name": "event_time"},
            ],
            "filters": [{"field_name": "event_name", "op": "equals", "value": "nobody sent this"}],
        },
    )
    empty = {"sum": None, "avg": None, "min": None, "max": None, "min_event_time": None}
    assert rows == [{"count": 0, "count_distinct": 0, **empty}]


def test_a_key_bound_to_a_customer_sees_that_customer_whatever_the_request_says(engine: Engine) -> None:
    everyone = {"field_name": "customer_identifier", "op": "in", "value": ["c1", "c2"]}
    rows = ask(engine, {"group_by": ["customer_identifier"], "filters": [everyone]}, customer="c1")
    assert rows == [{"customer_identifier": "c1"}]
    raw = ask(engine, {"filters": [{"field_name": "x", "op": "not_equals", "value": "?"}]}, customer="c2")
    assert {event["customer_identifier"] for event in raw} == {"c2"}
    assert len(raw) == sum(event["customer_identifier"] == "c2" for event in EVENTS)


def test_raw_events_are_the_clients_own_values_newest_first(engine: Engine) -> None:
    rows = ask(engine, {})
    newest_first = sorted(
        EVENTS, key=lambda e: (e["event_time"], e["time_recorded"], e["unique_req_id"]), reverse=True
    )
    assert [row["unique_req_id"] for row in rows] == [event["unique_req_id"] for event in newest_first]
    for row, event in zip(rows, newest_first, strict=True):
        assert datetime.fromisoformat(row["event_time"]).timestamp() * 1000 == event["event_time"]
        assert row["time_recorded"] == event["time_recorded"]
        for name, value in event.items():
            if name not in ("event_time", "time_recorded"):
                # repr tells 1 from 1.0 and -0.0 from 0.0: a raw event has not even been rounded.
                assert repr(row[name]) == repr(value), name
        assert "project_id" not in row
        assert "body" not in row


def test_raw_events_can_be_ordered_by_any_field(engine: Engine) -> None:
    rows = ask(engine, {"order_by": [{"field_name": "X", "direction": "DESC"}], "limit": 300})
    numbers = [row["X"] for row in rows if type(row.get("X")) in (int, float)]
    assert [type(row.get("X")) in (int, float) for row in rows[: len(numbers)]] == [True] * len(numbers)
    assert numbers == sorted(numbers, reverse=True)
    assert rows[-1].get("X") is None


def test_times_can_be_compared_and_their_extremes_found(engine: Engine) -> None:
    after = {"field_name": "event_time", "op": "greater_than_or_equals", "value": "2018-11-04T03:00:00Z"}
    before = {"field_name": "event_time", "op": "less_than", "value": "2024-10-27"}
    rows = ask(
        engine,
        {
            "computations": [
                {"function": "min", "field_name": "event_time"},
                {"function": "max", "field_name": "event_time"},
                {"function": "count_distinct", "field_name": "event_time"},
            ],
            "filters": [after, before],
        },
    )
    expected = {"min_event_time": "2018-11-04T03:00:00.000Z", "max_event_time": "2024-03-31T01:00:00.000Z"}
    assert rows == [{**expected, "count_distinct_event_time": 3}]
    one = {"field_name": "time_recorded", "op": "in", "value": ["2023-11-14T22:13:20.001Z"]}
    assert [event["unique_req_id"] for event in ask(engine, {"filters": [one]})] == [f"{1:032x}"]


def test_the_end_of_a_period_is_not_included(engine: Engine) -> None:
    def count(start: str, end: str) -> int:
        request = {"time_period": {"start": start, "end": end}, "computations": [{"function": "count"}]}
        found: int = ask(engine, request)[0]["count"]
        return found

    def sent_at(moment: str) -> int:
        return sum(
            event["event_time"] == datetime.fromisoformat(moment).timestamp() * 1000 for event in EVENTS
        )

    before, exactly = sent_at("2024-03-31T00:59:59.999+00:00"), sent_at("2024-03-31T01:00:00.000+00:00")
    assert before > 0
    assert exactly > 0
    assert count("2024-03-31T01:00:00.000Z", "2024-03-31T01:00:00.001Z") == exactly
    assert count("2024-03-31T00:59:59.999Z", "2024-03-31T01:00:00.000Z") == before


def test_a_bucket_carries_the_offset_of_its_zone(engine: Engine) -> None:
    request = {
        "group_by_time": "day",
        "timezone": "Europe/Berlin",
        "time_period": {"start": "2024-03-31", "end": "2024-10-28"},
    }
    starts = [row["event_time"] for row in ask(engine, request)]
    assert starts == ["2024-03-31T00:00:00.000+01:00", "2024-10-27T00:00:00.000+02:00"]


def test_a_filter_on_the_event_name_uses_the_primary_key(engine: Engine) -> None:
    request = {**WHOLE, "filters": [{"field_name": "event_name", "op": "equals", "value": "view"}]}
    statement = to_statement(read_query(json.dumps(request).encode(), Scope(), 0))  # type: ignore[arg-type]
    plan = json.dumps(engine.run("EXPLAIN indexes = 1 " + statement.sql, statement.parameters))
    keys = plan[plan.index("PrimaryKey") :][:300]
    assert "project_id" in keys
    assert "event_name" in keys


@given(text=st.text(min_size=1, max_size=30), name=st.text(min_size=1, max_size=12))
def test_no_value_and_no_unchecked_name_is_ever_part_of_the_statement(text: str, name: str) -> None:
    marked = f"\u00a7{text}"
    request = {
        **WHOLE,
        "filters": [
            {"field_name": "x", "op": "equals", "value": marked},
            {"field_name": "event_name", "op": "in", "value": [marked, "b"]},
        ],
        "computations": [{"function": "sum", "field_name": "x", "as": f"\u00a7{name}"}],
        "order_by": [{"field_name": f"\u00a7{name}"}],
    }
    statement = to_statement(read_query(json.dumps(request).encode(), Scope(marked), 0))  # type: ignore[arg-type]
    assert "\u00a7" not in statement.sql
    assert marked in statement.parameters.values()
