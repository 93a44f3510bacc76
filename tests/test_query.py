"""The query language before any SQL: what is refused and in which words, and what a period means."""

from __future__ import annotations

import gc
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ApiError, Kind
from app.filters import AnyOf, Filter, each_filter
from app.query import Query, read_query
from app.time_period import Period
from app.timestamp import format_timestamp

NOW = "2021-06-30T14:48:20.123Z"  # a Wednesday


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def read(request: Any, now: str = NOW) -> Query:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_query(body, ms(now))


def problems(request: Any) -> dict[str, str]:
    """Path -> message of everything that is wrong."""
    with pytest.raises(ApiError) as caught:
        read(request)
    assert caught.value.kind is Kind.INVALID_BODY
    return {problem.path: problem.message for problem in caught.value.problems}


def with_period(**members: Any) -> dict[str, Any]:
    return {"time_period": "today", **members}


def test_the_originals_example_is_understood() -> None:
    query = read(
        b"""{"time_period": "minus_5_minutes", "group_by": ["example_string_field"],
        "computations": [{"field_name": "example_number_field", "function": "sum"}],
        "filters": [{"field_name": "event_name", "op": "equals", "value": "my_first_event_name"}],
        "order_by": [{"field_name": "example_string_field", "direction": "ASC"}]}"""
    )
    assert query.computations[0].output == "sum_example_number_field"
    assert query.period == Period(ms("2021-06-30T14:43:20.123Z"), ms(NOW) + 1)


@pytest.mark.parametrize(
    ("words", "zone", "start", "end"),
    [
        ("minus_1_hours", "UTC", "2021-06-30T13:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("minus_2_days", "UTC", "2021-06-28T14:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("minus_1_weeks", "UTC", "2021-06-23T14:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("minus_4_months", "UTC", "2021-02-28T14:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("minus_1_years", "UTC", "2020-06-30T14:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("minus_51_years", "UTC", "1970-06-30T14:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        # The same time of day in Berlin, in winter: an hour later in UTC.
        ("minus_6_months", "Europe/Berlin", "2020-12-30T15:48:20.123Z", "2021-06-30T14:48:20.124Z"),
        ("today", "UTC", "2021-06-30T00:00:00.000Z", "2021-07-01T00:00:00.000Z"),
        ("today", "Asia/Tokyo", "2021-06-29T15:00:00.000Z", "2021-06-30T15:00:00.000Z"),
        ("yesterday", "UTC", "2021-06-29T00:00:00.000Z", "2021-06-30T00:00:00.000Z"),
        ("this_week", "UTC", "2021-06-28T00:00:00.000Z", "2021-07-05T00:00:00.000Z"),
        ("this_month", "UTC", "2021-06-01T00:00:00.000Z", "2021-07-01T00:00:00.000Z"),
        ("this_month", "America/New_York", "2021-06-01T04:00:00.000Z", "2021-07-01T04:00:00.000Z"),
    ],
)
def test_a_period_in_words(words: str, zone: str, start: str, end: str) -> None:
    period = read({"time_period": words, "timezone": zone}).period
    assert (format_timestamp(period.start_ms), format_timestamp(period.end_ms)) == (start, end)


def test_a_day_that_loses_an_hour_is_23_hours_long() -> None:
    now = "2024-03-31T18:00:00Z"
    period = read({"time_period": "today", "timezone": "Europe/Berlin"}, now).period
    assert period == Period(ms("2024-03-30T23:00:00Z"), ms("2024-03-31T22:00:00Z"))
    yesterday = read({"time_period": "yesterday", "timezone": "Europe/Berlin"}, "2024-04-01T10:00:00Z")
    assert yesterday.period == period


def test_a_period_between_two_timestamps() -> None:
    period = read({"time_period": {"start": "2021-01-01", "end": "2021-01-02T00:00+01:00"}}).period
    assert period == Period(ms("2021-01-01"), ms("2021-01-01T23:00:00Z"))


@pytest.mark.parametrize(
    ("period", "path", "words"),
    [
        (None, "$.time_period", "expected string or object"),
        (5, "$.time_period", "expected string or object"),
        ("minus_0_days", "$.time_period", "at least 1"),
        ("minus_52_years", "$.time_period", "before the year 1970"),
        ("minus_999999999999_years", "$.time_period", "before the year 1970"),
        ("minus_999999999999_minutes", "$.time_period", "before the year 1970"),
        ("minus_5_minute", "$.time_period", "unknown unit of time `minute`, did you mean `minutes`?"),
        ("tody", "$.time_period", "unknown time period `tody`, did you mean `today`?"),
        ("last_7_days", "$.time_period", "did you mean `minus_7_days`?"),
        ("30 day", "$.time_period", "did you mean `minus_30_days`?"),
        ("last_week", "$.time_period", "did you mean `minus_1_weeks`?"),
        ("this_year", "$.time_period", "unknown time period `this_year`; known are"),
        ({"start": "2021-01-01"}, "$.time_period.end", "required field is missing"),
        ({"start": "x", "end": "2021-01-01"}, "$.time_period.start", "ISO 8601"),
        ({"start": "2021-01-01", "end": "2021-01-01"}, "$.time_period", "start must be before end"),
        (
            {"start": "2021-01-01", "end": "2021-01-02", "stop": 1},
            "$.time_period.stop",
            "unknown member `stop`",
        ),
    ],
)
def test_a_period_that_makes_no_sense(period: Any, path: str, words: str) -> None:
    assert words in problems({"time_period": period})[path]


@pytest.mark.parametrize(
    ("function", "meant"),
    [("mean", "avg"), ("Average", "avg"), ("p50", "median"), ("unique", "count_distinct"), ("SUM", "sum")],
)
def test_another_tool_s_word_for_a_function_is_understood(function: str, meant: str) -> None:
    found = problems({"computations": [{"function": function, "field_name": "x"}]})
    assert found["$.computations[0].function"] == f"unknown function `{function}`, did you mean `{meant}`?"


@pytest.mark.parametrize(
    ("op", "meant"),
    [("=", "equals"), ("!=", "not_equals"), (">=", "greater_than_or_equals"), ("lt", "less_than"),
     ("like", "contains"), ("regex", "matches"), ("exists", "is_not_null")],
)  # fmt: skip
def test_another_tool_s_word_for_an_op_is_understood(op: str, meant: str) -> None:
    found = problems({"filters": [{"field_name": "x", "op": op, "value": 1}]})
    assert found["$.filters[0].op"] == f"unknown op `{op}`, did you mean `{meant}`?"


def test_an_empty_body_is_called_empty() -> None:
    assert problems(b" ") == {"$": "the body is empty; send one JSON object"}


def test_all_problems_are_named_at_once_each_with_its_path() -> None:
    found = problems(
        {
            "timezone": "Europe/Berln",
            "groupby": [],
            "group_by": ["a.b.c", "event_time", "x", "x"],
            "group_by_time": "hours",
            "computations": [
                {"function": "averge", "field_name": "x"},
                {"function": 7, "field_name": "x"},
                {"function": "sum"},
                {"function": "sum", "field_name": "event_name"},
            ],
            "filters": [
                {"field_name": "x", "op": "equal", "value": 1},
                {"field_name": "x", "op": "contains", "value": ["a"]},
                {"field_name": "x", "op": "equals", "value": None},
                {"or": []},
                {"or": [{"field_name": "x", "op": "matchs", "value": "a"}, []]},
                {"or": [{"field_name": "x", "op": "is_null"}], "op": "equals"},
            ],
            "order_by": [{"field_name": "sum_y", "direction": "UP"}],
        }
    )
    assert found["$.timezone"] == "unknown time zone `Europe/Berln`, did you mean `Europe/Berlin`?"
    assert found["$.time_period"] == "required field is missing"
    assert found["$.groupby"] == "unknown member `groupby`, did you mean `group_by`?"
    assert "not a field name" in found["$.group_by[0]"]
    assert "use group_by_time" in found["$.group_by[1]"]
    assert found["$.group_by_time"] == "unknown group_by_time `hours`, did you mean `hour`?"
    assert found["$.computations[0].function"] == "unknown function `averge`, did you mean `avg`?"
    assert found["$.computations[1].function"].startswith("expected one of `count`, `count_distinct`")
    assert found["$.computations[2].field_name"].startswith("required")
    assert "sees numbers only" in found["$.computations[3].field_name"]
    assert found["$.filters[0].op"] == "unknown op `equal`, did you mean `equals`?"
    assert "contains" in found["$.filters[1].value"]
    assert "is_null" in found["$.filters[2].value"]
    assert "length >= 1" in found["$.filters[3].or"]
    assert found["$.filters[4].or[0].op"] == "unknown op `matchs`, did you mean `matches`?"
    assert "length >= 1" in found["$.filters[4].or[1]"]
    assert "stands alone" in found["$.filters[5].op"]
    assert "`ASC`, `DESC`" in found["$.order_by[0].direction"]
    limits = problems({"limit": 10_001, "offset": -1})
    assert limits["$.limit"] == "expected integer <= 10000"
    assert limits["$.offset"] == "expected integer >= 0"
    between = problems(
        {"time_period": "tody", "group_by": ["x", "x"], "fill": True, "order_by": [{"field_name": "y"}]}
    )
    assert set(between) == {"$.time_period", "$.group_by", "$.fill"}
    assert "twice" in between["$.group_by"]
    assert "raw events only" in problems(with_period(group_by=["x"], cursor="c"))["$.cursor"]
    assert problems({"time_period": "minus_99_years", "order_by": [{"field_name": "x."}]}).keys() == {
        "$.time_period",
        "$.order_by[0].field_name",
    }


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"field_name": "event_name", "op": "equals", "value": 1}, "expected a string"),
        ({"field_name": "is_bot", "op": "equals", "value": "true"}, "true or false"),
        ({"field_name": "is_bot", "op": "less_than", "value": True}, "no order"),
        ({"field_name": "x", "op": "less_than", "value": True}, "no order"),
        ({"field_name": "x", "op": "equals", "value": [1]}, "searched with contains"),
        ({"field_name": "x", "op": "equals", "value": 2**64}, "64 bits"),
        ({"field_name": "x", "op": "equals", "value": "é" * 4097}, "8192 bytes"),
        ({"field_name": "event_time", "op": "less_than", "value": 5}, "timestamps"),
        ({"field_name": "event_time", "op": "less_than", "value": "soon"}, "ISO 8601"),
        ({"field_name": "x", "op": "equals"}, "required"),
        ({"field_name": "x", "op": "is_null", "value": 1}, "takes no value"),
        ({"field_name": "x", "op": "in", "value": []}, "1 to 1000"),
        ({"field_name": "x", "op": "in", "value": list(range(1001))}, "1 to 1000"),
        ({"field_name": "x", "op": "not_in", "value": "a"}, "1 to 1000"),
        ({"field_name": "x", "op": "starts_with", "value": 1}, "looks at strings"),
        ({"field_name": "is_bot", "op": "contains", "value": True}, "never holds one"),
        ({"field_name": "event_time", "op": "matches", "value": "2021"}, "never holds one"),
        ({"field_name": "x", "op": "matches", "value": "a("}, "missing ): a("),
        ({"field_name": "x", "op": "matches", "value": "(?=a)"}, "invalid perl operator"),
        ({"field_name": "x", "op": "matches", "value": "é" * 501}, "1000 bytes"),
        ({"field_name": "x", "op": "matches", "value": "\\pL{1000}"}, "RE2"),
    ],
)
def test_a_value_that_could_never_match_is_refused(item: dict[str, Any], words: str) -> None:
    assert words in problems(with_period(filters=[item]))["$.filters[0].value"]


def nested(depth: int) -> dict[str, Any]:
    leaf: dict[str, Any] = {"field_name": "x", "op": "is_null"}
    return leaf if depth == 0 else {"or": [nested(depth - 1)]}


def test_or_nests_in_arrays_and_in_or_within_bounds() -> None:
    x, y = ({"field_name": name, "op": "is_null"} for name in ("x", "y"))
    query = read(with_period(filters=[x, {"or": [y, [x, {"or": [y, x]}]]}]))
    first, choice = query.filters
    assert isinstance(first, Filter)
    assert isinstance(choice, AnyOf)
    assert [leaf.field.name for leaf in each_filter(query.filters)] == ["x", "y", "x", "y", "x"]
    assert read(with_period(filters=[nested(8)]))
    assert "at most 8 levels" in str(problems(with_period(filters=[nested(9)])))
    assert read(with_period(filters=[{"or": [x] * 50}, {"or": [x] * 50}]))
    many = with_period(filters=[{"or": [x] * 51}, {"or": [x] * 50}])
    assert problems(many)["$.filters"] == "at most 100 filters, counted with those inside `or`"
    patterns = with_period(filters=[{"or": [{"field_name": "x", "op": "matches", "value": "a"}] * 11}])
    assert "at most 10" in problems(patterns)["$.filters"]


@pytest.mark.parametrize(
    "name", ["timestamp", "event_name.x", "a`b", "a.b.c", "", "a.", "é", "x" * 129, "a'b"]
)
def test_a_name_that_no_field_can_have_is_refused(name: str) -> None:
    assert "$.group_by[0]" in problems(with_period(group_by=[name]))


def test_two_columns_cannot_share_a_name() -> None:
    twice = [{"function": "count"}, {"function": "count"}]
    assert "called `count`" in problems(with_period(computations=twice))["$.computations"]
    bucket = {"group_by_time": "day", "computations": [{"function": "count", "as": "event_time"}]}
    assert "called `event_time`" in problems(with_period(**bucket))["$.computations"]
    assert read(with_period(computations=[{"function": "count"}, {"function": "count", "as": "n"}]))


def test_order_by_names_an_output_column() -> None:
    grouped = {"group_by": ["x"], "computations": [{"function": "count", "as": "n"}]}
    assert read(with_period(**grouped, order_by=[{"field_name": "n", "direction": "DESC"}]))
    wrong = with_period(**grouped, order_by=[{"field_name": "y"}])
    assert problems(wrong)["$.order_by[0].field_name"] == "unknown output column `y`; known are x, n"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"a": 1e999}']
)
def test_what_is_not_an_object_is_a_400(body: bytes) -> None:
    assert "$" in problems(body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_members = (
    *("time_period", "timezone", "group_by", "group_by_time", "computations"),
    *("filters", "order_by", "limit", "offset"),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # which counts the machine's other work too
@given(request=st.dictionaries(st.sampled_from(_members), _json))
def test_any_json_is_read_or_refused_never_an_error_of_ours(request: dict[str, Any]) -> None:
    refusal: ApiError | None = None
    try:
        read({"time_period": "today", **request})
    except ApiError as error:
        refusal = error
    assert refusal is None or (refusal.row.status == 400 and refusal.problems)


def test_a_megabyte_of_mistakes_is_refused_in_the_time_of_a_few() -> None:
    """It is read in the loop that takes events: each of these held it up for a second or more."""
    pattern = {"field_name": "s", "op": "matches", "value": r"(\pL{1,30}){1,30}x"}
    values = {"field_name": "s", "op": "in", "value": ["x"] * 1000}
    hostile: dict[str, dict[str, Any]] = {
        "computations": {"computations": [{"function": "averge"}] * 25_000},
        "groups": {"group_by": ["x"] * 100_000},
        "members": {f"m{n}": 1 for n in range(60_000)},
        "members of a filter": {"filters": [{f"op{n}": 1 for n in range(60_000)}]},
        "patterns": {"filters": [pattern] * 100},
        "values": {"filters": [values] * 100},
    }
    for name, members in hostile.items():
        body = json.dumps(with_period(**members)).encode()
        gc.disable()  # what the other tests left on the heap is none of its business
        try:
            began = time.thread_time()
            problems(body)
            assert time.thread_time() - began < 0.5, name
        finally:
            gc.enable()
