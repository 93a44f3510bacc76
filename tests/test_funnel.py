"""Funnels: the SQL against plain Python on the real engine, the rules one by one, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.funnel import groups, read_funnel
from app.scope import Scope
from app.sql_funnel import to_statement
from tests import analysis_oracle
from tests.analysis_data import (
    EVENTS,
    PROJECTS,
    bounds,
    examples,
    filters,
    in_scope,
    periods,
    scope,
    selections,
    to_row,
)
from tests.query_engine import Engine
from tests.query_oracle import same

NOW = 1_900_000_000_000
WHOLE = {"start": "1970-01-01", "end": "2100-12-31"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        for project in PROJECTS:
            rows = [to_row(event, project) for event in EVENTS[project]]
            for start in range(0, len(rows), 200):
                engine.insert(rows[start : start + 200])
        yield engine


def ask(engine: Engine, request: dict[str, Any], seen: Scope) -> dict[str, Any]:
    asked = read_funnel(json.dumps(request).encode(), NOW)
    rows = engine.run(*to_statement(asked, seen))
    total, found = groups(asked, rows)
    decoded: dict[str, Any] = json.loads(msgspec.json.encode({"steps": total, "groups": found}))
    return decoded


def shape(steps: list[dict[str, Any]]) -> list[tuple[int, float | None, float | None]]:
    return [(s["count"], s["median_ms_from_previous"], s["median_ms_from_first"]) for s in steps]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    lengths = ["1_seconds", "6_minutes", "12_minutes", "1_hours", "1_days", "2_weeks", "366_days"]
    request: dict[str, Any] = {
        "time_period": draw(periods()),
        "steps": draw(st.lists(selections(), min_size=2, max_size=5)),
        "window": draw(st.sampled_from(lengths)),
        "filters": draw(st.lists(filters(), max_size=1)),
        "group_by": draw(
            st.lists(st.sampled_from(["plan", "is_bot", "utm_source", "event_name"]), max_size=2, unique=True)
        ),
    }
    if draw(st.booleans()):
        request["by"] = draw(st.sampled_from(["session", "customer_identifier", "utm_source", "is_bot"]))
    return request


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    request_=requests(), project=st.sampled_from(PROJECTS), customer=st.sampled_from([None, None, "c1", "c7"])
)
def test_random_funnels_answer_what_plain_python_answers(
    engine: Engine, request_: dict[str, Any], project: str, customer: str | None
) -> None:
    answer = ask(engine, {**request_, "limit": 1000}, scope(project, customer))
    events = in_scope(project, customer)
    total, by_group = analysis_oracle.funnel(request_, events, bounds(request_["time_period"]))
    assert shape(answer["steps"]) == total
    found = {
        tuple(same(group["group"][name]) for name in request_["group_by"]): shape(group["steps"])
        for group in answer["groups"]
    }
    assert found == (by_group if request_["group_by"] else {})
    assert len(answer["groups"]) == len(found)


MINUTES = 60_000


def made(name: str, minute: float, customer: str = "c", **fields: Any) -> dict[str, Any]:
    """An event `minute` minutes into the hour; what comes later in a test arrives later."""
    event = {"event_name": name, "event_time": round(minute * MINUTES), "customer_identifier": customer}
    return {**event, "time_recorded": 10**12, **fields}


def told(engine: Engine, events: list[dict[str, Any]], **request: Any) -> list[dict[str, Any]]:
    """The steps of view, cart, buy within 10 minutes for just these events."""
    project = f"p{next(_numbers)}"
    rows = [{**event, "unique_req_id": f"{index:032x}"} for index, event in enumerate(events)]
    engine.insert([to_row(row, project) for row in rows])
    steps = [{"event_name": name} for name in ("view", "cart", "buy")]
    answer = ask(
        engine, {"time_period": WHOLE, "steps": steps, "window": "10_minutes", **request}, scope(project)
    )
    found: list[dict[str, Any]] = answer["groups"] if request.get("group_by") else answer["steps"]
    return found


_numbers = itertools.count()


def counts(steps: list[dict[str, Any]]) -> list[int]:
    return [step["count"] for step in steps]


def test_what_a_step_tells(engine: Engine) -> None:
    events = [made("view", 0, c) for c in "abcd"] + [
        made("cart", m, c) for c, m in zip("abc", (1, 2, 6), strict=True)
    ]
    steps = told(engine, [*events, made("buy", 7.5, "a"), made("buy", 9, "c")])
    nothing = {"dropped": 0, "median_ms_from_previous": None, "median_ms_from_first": None}
    first = {"name": "view", "count": 4, "conversion_from_previous": 1.0, "conversion_from_first": 1.0}
    assert steps[0] == {**first, **nothing}
    assert steps[1] == {
        **{"name": "cart", "count": 3, "dropped": 1},
        **{"conversion_from_previous": 0.75, "conversion_from_first": 0.75},
        **{"median_ms_from_previous": 2 * MINUTES, "median_ms_from_first": 2 * MINUTES},
    }
    assert steps[2] == {
        **{"name": "buy", "count": 2, "dropped": 1},
        **{"conversion_from_previous": 2 / 3, "conversion_from_first": 0.5},
        **{"median_ms_from_previous": (6.5 + 3) / 2 * MINUTES, "median_ms_from_first": 8.25 * MINUTES},
    }


def test_nobody_began(engine: Engine) -> None:
    steps = told(engine, [made("cart", 0), made("buy", 1)])
    assert counts(steps) == [0, 0, 0]
    assert {step["conversion_from_first"] for step in steps} == {None}


def test_the_window_is_as_long_as_it_says(engine: Engine) -> None:
    last = [made("view", 0), made("cart", 5), made("buy", 10)]
    assert counts(told(engine, last)) == [1, 1, 1]
    assert counts(told(engine, [*last[:2], made("buy", 10 + 1 / MINUTES)])) == [1, 1, 0]


def test_at_one_moment_the_order_of_arrival_counts(engine: Engine) -> None:
    names = ("view", "cart", "buy")
    assert counts(told(engine, [made(name, 1) for name in names])) == [1, 1, 1]
    assert counts(told(engine, [made(name, 1) for name in reversed(names)])) == [1, 0, 0]
    later = [made(name, 1, time_recorded=10**12 + at) for name, at in zip(names, (2, 1, 0), strict=True)]
    assert counts(told(engine, later)) == [1, 0, 0]


def test_one_event_is_not_two_steps(engine: Engine) -> None:
    any_event = [{"filters": [{"field_name": "event_name", "op": "is_not_null"}]}] * 3
    assert counts(told(engine, [made("view", 0), made("view", 1)], steps=any_event)) == [1, 1, 0]


def test_the_attempt_that_got_furthest_counts_and_of_equals_the_first(engine: Engine) -> None:
    # Too slow at first, then twice in time: the first of these two is told.
    events = [made("view", 0, plan="slow"), made("cart", 9), made("buy", 11)]
    events += [made("view", 20, plan="first"), made("view", 22), made("cart", 23), made("buy", 24)]
    events += [made("view", 40, plan="second"), made("cart", 41), made("buy", 42)]
    (group,) = told(engine, events, group_by=["plan"])
    assert group["group"] == {"plan": "first"}
    assert counts(group["steps"]) == [1, 1, 1]
    assert group["steps"][2]["median_ms_from_first"] == 4 * MINUTES


def test_events_in_between_do_no_harm_and_events_without_a_customer_do_not_count(engine: Engine) -> None:
    events = [
        made("view", 0),
        made("ping", 1),
        made("buy", 2),
        made("cart", 3),
        made("view", 4),
        made("buy", 5),
    ]
    assert counts(told(engine, events)) == [1, 1, 1]
    assert counts(told(engine, [{**event, "customer_identifier": ""} for event in events])) == [0, 0, 0]


def test_the_largest_groups_are_told_and_all_are_in_the_total(engine: Engine) -> None:
    events = [
        made("view", 0, f"{plan}{n}", plan=plan)
        for plan, size in (("b", 1), ("a", 1), ("c", 2))
        for n in range(size)
    ]
    groups_ = told(engine, events, group_by=["plan"], limit=2)
    assert [group["group"]["plan"] for group in groups_] == ["c", "a"]
    assert counts(told(engine, events, limit=2)) == [4, 0, 0]


def refused(**request: Any) -> dict[str, str]:
    """Path -> message of everything that is wrong."""
    with pytest.raises(ApiError) as caught:
        read_funnel(json.dumps(request).encode(), NOW)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    two = [{"event_name": "a"}, {"event_name": "b"}]
    assert refused(
        time_period="minus_5_minuts",
        timezone="Europe/Berln",
        steps=[
            {"event_name": "a", "nam": "x"},
            {},
            {"filters": [{"field_name": "x", "op": "equls", "value": 1}]},
        ],
        window="7_dais",
        by="event_time",
        group_by=["plan", "plan"],
        limit=0,
        windw=1,
    ) == {
        "$.time_period": "unknown unit of time `minuts`, did you mean `minutes`?",
        "$.timezone": "unknown time zone `Europe/Berln`, did you mean `Europe/Berlin`?",
        "$.steps[0].nam": "unknown member `nam`, did you mean `name`?",
        "$.steps[2].filters[0].op": "unknown op `equls`, did you mean `equals`?",
        "$.window": "unknown unit of time `dais`, did you mean `days`?",
        "$.by": "`event_time` is a time, which tells nobody apart",
        "$.group_by": "`plan` is there twice",
        "$.limit": "expected integer >= 1",
        "$.windw": "unknown member `windw`, did you mean `window`?",
    }
    assert refused(steps=two) == {"$.time_period": "required field is missing"}
    assert refused(time_period="today", steps=two[:1]) == {"$.steps": "expected array of length >= 2"}
    assert refused(time_period="today", steps=two, window="1_months") == {
        "$.window": "`months` have no exact length; use days or weeks"
    }
    assert refused(time_period="today", steps=two, window="367_days") == {
        "$.window": "expected a length from 1_seconds to 366_days"
    }
    assert refused(time_period="today", steps=two, window="P1D") == {
        "$.window": "expected a length of time such as `1_hours` or `7_days`"
    }
    many = [{"field_name": "x", "op": "equals", "value": 1}] * 90
    assert refused(time_period="today", steps=[{"filters": many}] * 3) == {
        "$": "at most 100 filters in one request; this has 270"
    }
    long = [{"field_name": "x", "op": "in", "value": ["y" * 8000] * 5}]
    assert "bytes" in refused(time_period="today", steps=[{"filters": long}] * 2)["$"]
