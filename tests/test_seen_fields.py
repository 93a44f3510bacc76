"""Names and fields: the SQL against plain Python on the real engine, what is shown of values, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import seen_fields, sql_seen_fields
from app.errors import ApiError
from app.scope import Scope
from app.timestamp import format_timestamp
from tests.analysis_data import examples, scope
from tests.analysis_oracle import selected
from tests.query_data import CUSTOM, EVENTS, filters, to_row
from tests.query_engine import Engine
from tests.query_oracle import Event, same, value_of

NOW = 1_900_000_000_000
WHOLE = {"start": "1970-01-01", "end": "2100-12-31"}
TEXTS = ("event_name", "customer_identifier", "ip_country", "utm_source", "is_bot")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        rows = [{**to_row(event), "project_id": "p"} for event in EVENTS]
        for start in range(0, len(rows), 60):
            engine.insert(rows[start : start + 60])
        body = json.dumps({"event_name": "foreign", "secret": "another project's"})
        engine.insert([{**rows[0], "project_id": "q", "event_name": "foreign", "body": body}])
        yield engine


def ask(engine: Engine, request: dict[str, Any], seen: Scope) -> dict[str, Any]:
    """As `app.analyse` does it."""
    asked = seen_fields.read_seen_fields(json.dumps({"time_period": WHOLE, **request}).encode(), NOW)
    names = seen_fields.seen_names(engine.run(*sql_seen_fields.to_names(asked, seen)))
    ((paths,),) = engine.run(*sql_seen_fields.to_paths(asked, seen))
    custom = seen_fields.custom_fields(paths)
    wanted = [*seen_fields.COLUMN_FIELDS, *custom[asked.offset : asked.offset + asked.limit]]
    (row,) = engine.run(*sql_seen_fields.to_details(asked, seen, wanted, paths))
    found = list(seen_fields.seen_fields(wanted, row))
    answer = {"event_names": names, "fields": found, "custom_field_count": len(custom)}
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(answer))
    return decoded


def kind_of(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "array"}
    return kinds[type(value)]


def rounded(value: Any) -> Any:
    """Large numbers as floats: their text may be padded with zeros, and in an array one float makes all so."""
    if isinstance(value, list):
        return [rounded(item) for item in value]
    is_large = isinstance(value, int) and abs(value) > 2**53
    return float(value) if is_large else value


def described(events: list[Event], name: str) -> dict[str, Any] | None:
    """What the answer should say of a field, but for the examples."""
    having = [event for event in events if value_of(event, name) is not None]
    if not having:
        return None
    times = [event["event_time"] for event in having]
    values = [value_of(event, name) for event in having]
    return {
        "field_name": name,
        "count": len(having),
        "types": dict(Counter(map(kind_of, values))),
        "distinct": len(set(map(same, values))),
        "first_seen": format_timestamp(min(times)),
        "last_seen": format_timestamp(max(times)),
    }


@settings(
    max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    asked=st.lists(filters(), max_size=2),
    name=st.sampled_from([None, "view"]),
    customer=st.sampled_from([None, "c1", "c2", "nobody"]),
)
def test_names_and_fields_are_what_plain_python_finds(
    engine: Engine, asked: list[dict[str, Any]], name: str | None, customer: str | None
) -> None:
    request = {"filters": asked} | ({"event_name": name} if name else {})
    answer = ask(engine, request, scope("p", customer))
    events = [e for e in EVENTS if customer in (None, e.get("customer_identifier")) and selected(e, request)]
    assert {one["event_name"]: one["count"] for one in answer["event_names"]} == Counter(
        event["event_name"] for event in events
    )
    wanted = {field: described(events, field) for field in (*TEXTS, *CUSTOM)}
    found = {one["field_name"]: one for one in answer["fields"]}
    assert found.keys() == {field for field, about in wanted.items() if about}
    for field, one in found.items():
        examples = one.pop("examples")
        derived = "derived" if field in ("ip_country", "is_bot") else "predefined"
        assert one.pop("origin") == ("custom" if field in CUSTOM else derived)
        assert one == wanted[field]
        values = {same(rounded(value_of(event, field))) for event in events}
        assert {same(rounded(example)) for example in examples} <= values
        assert len(examples) == min(3, one["distinct"])
    assert answer["custom_field_count"] == sum(1 for field in found if field in CUSTOM)


def test_long_values_are_cut_and_the_most_frequent_come_first(engine: Engine) -> None:
    texts = ["é" * 100, "é" * 101, "b", "b", "c", "c", "c", ["x" * 60] * 3]
    rows = [
        {
            **to_row({**EVENTS[0], "unique_req_id": f"{index:032x}", "x": text}),
            "project_id": "long",
        }
        for index, text in enumerate(texts)
    ]
    engine.insert(rows)

    def examples(*kept: int) -> Any:
        ids = [f"{index:032x}" for index in kept]
        by_id = {"field_name": "unique_req_id", "op": "in", "value": ids}
        answer = ask(engine, {"filters": [by_id]}, scope("long"))
        return next(one["examples"] for one in answer["fields"] if one["field_name"] == "x")

    assert examples(2, 3, 4, 5, 6) == ["c", "b"]
    assert examples(0) == ["é" * 100]
    assert examples(1) == ["é" * 100 + "…"]
    (cut,) = examples(7)
    assert cut == '["' + "x" * 60 + '","' + "x" * 35 + "…"


def test_more_fields_than_have_columns_of_their_own_and_a_page_of_them(engine: Engine) -> None:
    bodies = [{f"f{index:04d}": index for index in range(start, start + 100)} for start in range(0, 700, 100)]
    engine.insert(
        {
            **to_row({**EVENTS[0], "unique_req_id": f"{index:032x}"}),
            "project_id": "many",
            "body": json.dumps({"event_name": "view", **body}),
        }
        for index, body in enumerate(bodies)
    )
    answer = ask(engine, {"limit": 5, "offset": 298}, scope("many"))
    assert answer["custom_field_count"] == 700
    found = [one for one in answer["fields"] if one["origin"] == "custom"]
    assert [one["field_name"] for one in found] == [f"f{index:04d}" for index in range(298, 303)]
    assert [(one["count"], one["types"], one["examples"]) for one in found] == [
        (1, {"number": 1}, [index]) for index in range(298, 303)
    ]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ApiError) as caught:
        seen_fields.read_seen_fields(
            json.dumps({"limit": 1001, "event_nam": "x", "filters": [1]}).encode(), NOW
        )
    assert {problem.path: problem.message for problem in caught.value.problems} == {
        "$.time_period": "required field is missing",
        "$.limit": "expected integer <= 1000",
        "$.event_nam": "unknown member `event_nam`, did you mean `event_name`?",
        "$.filters[0]": "expected an object, got a number",
    }
