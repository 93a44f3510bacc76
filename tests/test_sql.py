"""The SQL against the real engine, question by question; random ones are in tests/test_oracle.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.computations import Function
from app.query import read_query
from app.scope import Erased, Scope
from app.sql import to_statement
from tests.query_data import EVENTS, WHOLE, ask, scope, to_row
from tests.query_engine import Engine
from tests.query_oracle import same


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


def test_what_every_function_and_every_operator_of_text_says_of_the_numbers_to_a_hundred(
    engine: Engine,
) -> None:
    """By hand: random questions seldom fall between the 94th and the 95th of a hundred."""
    shared = {**EVENTS[0], "event_name": "view", "customer_identifier": None}
    rows = [to_row({**shared, "unique_req_id": f"{n:032x}", "v": n, "s": f"<{n}>"}) for n in range(1, 101)]
    engine.insert([{**row, "project_id": "hundred"} for row in rows])

    def found(request: dict[str, Any]) -> list[dict[str, Any]]:
        query = read_query(json.dumps({**WHOLE, **request}).encode(), 0)
        data: list[dict[str, Any]] = engine.answer(query, Scope("hundred"))["data"]
        return data

    functions = {function.value: {"function": function.value, "field_name": "v"} for function in Function}
    [row] = found({"computations": [{**item, "as": name} for name, item in functions.items()]})
    assert row == {
        **{"count": 100, "count_distinct": 100, "sum": 5050, "avg": 50.5, "min": 1, "max": 100},
        **{
            "median": 50.5,
            "p90": pytest.approx(90.1),
            "p95": pytest.approx(95.05),
            "p99": pytest.approx(99.01),
        },
        **{"stddev": pytest.approx(28.86607004772212), "first": 1, "last": 100},
    }
    for op, value, count in [
        *(
            ("starts_with", "<1", 12),
            ("ends_with", "1>", 10),
            ("contains", "9", 19),
            ("not_contains", "9", 81),
        ),
        *(
            ("matches", "^<[0-9]>$", 9),
            ("equals", "<7>", 1),
            ("not_equals", "<7>", 99),
            ("in", ["<7>", "7"], 1),
        ),
        *(("not_in", ["<7>", "7"], 99), ("greater_than", "<98>", 2), ("less_than_or_equals", "<1>", 12)),
    ]:
        asked = {"field_name": "s", "op": op, "value": value}
        assert found({"computations": [{"function": "count"}], "filters": [asked]}) == [{"count": count}], op


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
    functions = [function.value for function in Function]
    rows = ask(
        engine,
        {
            "computations": [
                *({"function": function, "field_name": "x", "as": function} for function in functions),
                *({"function": function, "field_name": "event_time"} for function in ("min", "first")),
                {"function": "last", "field_name": "event_name"},
            ],
            "filters": [{"field_name": "event_name", "op": "equals", "value": "nobody sent this"}],
        },
    )
    empty = dict.fromkeys((*functions, "min_event_time", "first_event_time", "last_event_name"))
    assert rows == [{**empty, "count": 0, "count_distinct": 0}]


def test_the_first_and_the_last_are_those_of_the_same_event_for_columns_too(engine: Engine) -> None:
    names = ["event_time", "time_recorded", "unique_req_id", "event_name", "is_bot", "customer_identifier"]
    computations = [
        {"function": function, "field_name": name} for name in names for function in ("first", "last")
    ]
    found = ask(engine, {"computations": computations})[0]
    events = sorted(EVENTS, key=lambda e: (e["event_time"], e["time_recorded"], e["unique_req_id"]))
    for name in names:
        having = [event[name] for event in events if event[name] is not None]
        for function, wanted in (("first", having[0]), ("last", having[-1])):
            cell = found[f"{function}_{name}"]
            is_time = name in ("event_time", "time_recorded")
            assert (datetime.fromisoformat(cell).timestamp() * 1000 if is_time else cell) == wanted


def test_quantiles_of_one_field_come_from_one_list_of_its_values() -> None:
    computations = [
        *({"function": function, "field_name": "x"} for function in ("p99", "median", "p90")),
        {"function": "median", "field_name": "y"},
    ]
    query = read_query(json.dumps({**WHOLE, "computations": computations}).encode(), 0)
    sql = to_statement(query, Scope("p")).sql
    assert sql.count("quantilesExactInclusive(0.5, 0.9, 0.99)") == 3
    assert sql.count("quantilesExactInclusive(0.5)(") == 1


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


def test_pages_of_the_newest_events_neither_overlap_nor_leave_gaps(engine: Engine) -> None:
    """Most events share their moment with thirty others, so the order of their ids decides."""
    view = {"field_name": "event_name", "op": "equals", "value": "view"}
    for filters, wanted in (([], EVENTS), ([view], [e for e in EVENTS if e["event_name"] == "view"])):
        ordered = sorted(wanted, key=lambda e: (e["event_time"], e["unique_req_id"]), reverse=True)
        pages = [
            ask(engine, {"filters": filters, "limit": 17, "offset": offset})
            for offset in range(0, len(wanted) + 17, 17)
        ]
        found = [event["unique_req_id"] for page in pages for event in page]
        assert found == [event["unique_req_id"] for event in ordered]


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


def indexes(engine: Engine, customer: str | None = None, **filters: str) -> str:
    """What the engine says of the indexes that it would use."""
    asked = [{"field_name": name, "op": "equals", "value": value} for name, value in filters.items()]
    statement = to_statement(read_query(json.dumps({**WHOLE, "filters": asked}).encode(), 0), scope(customer))
    return json.dumps(engine.run("EXPLAIN indexes = 1 " + statement.sql, statement.parameters))


def test_a_filter_on_the_event_name_uses_the_primary_key(engine: Engine) -> None:
    plan = indexes(engine, event_name="view")
    keys = plan[plan.index("PrimaryKey") :][:300]
    assert "project_id" in keys
    assert "event_name" in keys


def test_a_filter_on_the_customer_uses_its_index(engine: Engine) -> None:
    assert "customer_filter" in indexes(engine, customer_identifier="c1")
    assert "customer_filter" in indexes(engine, customer="c1")
    assert "customer_filter" not in indexes(engine, event_name="view")


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
    statement = to_statement(read_query(json.dumps(request).encode(), 0), scope(marked))
    assert "\u00a7" not in statement.sql
    assert marked in statement.parameters.values()


def test_in_takes_strings_with_any_character(engine: Engine) -> None:
    for text in ('q"\\', "line\nbreak\t", "\u0001", "a/b", "it's"):
        asked = {"field_name": "x", "op": "in", "value": [text, "nobody sent this"]}
        found = ask(engine, {"group_by": ["x"], "filters": [asked]})
        assert found == ([{"x": text}] if any(event.get("x") == text for event in EVENTS) else [])


def test_nothing_erased_is_seen(engine: Engine) -> None:
    """A tombstone hides what was recorded up to its moment and matches all of it; the rest stays."""
    everything = engine.answer(read_query(json.dumps({**WHOLE, "limit": 10_000}).encode(), 0), scope())[
        "data"
    ]
    moments = sorted(event["time_recorded"] for event in everything)
    customer = next(e["customer_identifier"] for e in everything if e["customer_identifier"])
    up_to = moments[len(moments) // 2]
    name = read_query(
        json.dumps(
            {**WHOLE, "filters": [{"field_name": "event_name", "op": "not_equals", "value": "view"}]}
        ).encode(),
        0,
    )
    gone = (Erased(up_to, (customer,)), Erased(up_to, None, name.period, name.filters))
    query = read_query(json.dumps({**WHOLE, "limit": 10_000}).encode(), 0)
    seen = engine.answer(query, Scope("p", None, gone))["data"]
    hidden = [
        event
        for event in everything
        if event["time_recorded"] <= up_to
        and (event["customer_identifier"] == customer or event["event_name"] != "view")
    ]
    assert hidden
    assert sorted(e["unique_req_id"] for e in seen) == sorted(
        e["unique_req_id"] for e in everything if e not in hidden
    )
    count = read_query(json.dumps({**WHOLE, "computations": [{"function": "count"}]}).encode(), 0)
    assert engine.answer(count, Scope("p", None, gone))["data"] == [{"count": len(seen)}]
