"""Retention: the SQL against plain Python on the real engine, the rules one by one, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cohorts import read_retention, tables
from app.errors import ApiError
from app.scope import Scope
from app.sql_cohorts import to_statement
from tests import analysis_oracle
from tests.analysis_data import (
    DAY,
    EVENTS,
    PROJECTS,
    START,
    ZONES,
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

NOW = START + 400 * DAY


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        for project in PROJECTS:
            rows = [to_row(event, project) for event in EVENTS[project]]
            for start in range(0, len(rows), 200):
                engine.insert(rows[start : start + 200])
        yield engine


def ask(engine: Engine, request: dict[str, Any], seen: Scope, now_ms: int = NOW) -> dict[str, Any]:
    asked = read_retention(json.dumps(request).encode(), now_ms)
    table, groups = tables(asked, engine.run(*to_statement(asked, seen)))
    decoded: dict[str, Any] = json.loads(
        msgspec.json.encode({**msgspec.structs.asdict(table), "groups": groups})
    )
    return decoded


def shape(table: dict[str, Any]) -> dict[date, tuple[int, list[int | None]]]:
    return {
        date.fromisoformat(one["cohort"][:10]): (one["size"], one["returned"]) for one in table["cohorts"]
    }


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    request: dict[str, Any] = {
        "time_period": draw(periods()),
        "timezone": draw(st.sampled_from(ZONES)),
        "group_by_time": draw(st.sampled_from(["day", "week", "month"])),
        "periods": draw(st.integers(1, 12)),
        "first": draw(st.just({}) | selections()),
        "filters": draw(st.lists(filters(), max_size=1)),
        "new_only": draw(st.booleans()),
        "group_by": draw(
            st.lists(st.sampled_from(["plan", "is_bot", "utm_source", "event_name"]), max_size=1)
        ),
    }
    if draw(st.booleans()):
        request["returning"] = draw(st.just({}) | selections())
    if draw(st.booleans()):
        request["by"] = draw(st.sampled_from(["session", "utm_source", "is_bot"]))
    return request


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    request_=requests(),
    project=st.sampled_from(PROJECTS),
    customer=st.sampled_from([None, None, "c1", "c7"]),
    now=st.integers(0, 100 * DAY).map(lambda gap: START + gap) | st.just(NOW),
)
def test_random_retentions_answer_what_plain_python_answers(
    engine: Engine, request_: dict[str, Any], project: str, customer: str | None, now: int
) -> None:
    answer = ask(engine, {**request_, "limit": 100}, scope(project, customer), now)
    events, period = in_scope(project, customer), bounds(request_["time_period"])
    wanted = analysis_oracle.retention(request_, events, period, now)
    assert shape(answer) == wanted.pop(())
    found = {(same(*group["group"].values()),): shape(group) for group in answer["groups"]}
    assert found == wanted
    assert len(answer["groups"]) == len(found)


def made(name: str, moment: str, customer: str = "c", **fields: Any) -> dict[str, Any]:
    """An event; what comes later in a test arrives later."""
    event_time = round(datetime.fromisoformat(moment).timestamp() * 1000)
    event = {"event_name": name, "event_time": event_time, "customer_identifier": customer}
    return {**event, "time_recorded": 10**12, **fields}


_numbers = itertools.count()


def told(
    engine: Engine,
    events: list[dict[str, Any]],
    start: str,
    end: str,
    now: str = "2030-01-01T00:00Z",
    **more: Any,
) -> dict[str, Any]:
    """Who signed up in the period and came back by any event, for just these events."""
    project = f"p{next(_numbers)}"
    rows = [{**event, "unique_req_id": f"{index:032x}"} for index, event in enumerate(events)]
    engine.insert([to_row(row, project) for row in rows])
    request = {
        "time_period": {"start": start, "end": end},
        "first": {"event_name": "signup"},
        "returning": {},
    }
    now_ms = round(datetime.fromisoformat(now).timestamp() * 1000)
    return ask(engine, {**request, "periods": 2, **more}, scope(project), now_ms)


def test_what_a_cohort_tells(engine: Engine) -> None:
    events = [
        *(made("signup", "2024-05-06T10:00Z", c) for c in "abc"),
        *(made("view", "2024-05-06T11:00Z", "a"), made("view", "2024-05-06T09:00Z", "b")),  # b's was before
        *(made("view", "2024-05-07T10:00Z", c) for c in "aab"),
        *(made("signup", "2024-05-08T10:00Z", c) for c in "ad"),  # a has a cohort already
    ]
    answer = told(engine, events, "2024-05-06", "2024-05-09")
    first, second, third = answer["cohorts"]
    assert first == {
        "cohort": "2024-05-06T00:00:00.000Z",
        "size": 3,
        "returned": [1, 2, 1],
        "rates": [1 / 3, 2 / 3, 1 / 3],
    }
    assert second == {**first, "cohort": "2024-05-07T00:00:00.000Z", "size": 0} | {
        "returned": [0, 0, 0],
        "rates": [None, None, None],
    }
    assert (third["size"], third["returned"]) == (1, [0, 0, 0])
    assert answer["total"] == {"sizes": [4, 4, 4], "returned": [1, 2, 1], "rates": [0.25, 0.5, 0.25]}


def test_what_has_not_ended_yet_is_null_and_returns_are_followed_beyond_the_period(engine: Engine) -> None:
    events = [
        made("signup", "2024-05-06T10:00Z"),
        made("view", "2024-05-07T10:00Z"),
        made("view", "2024-05-08"),
    ]

    def returned(now: str) -> list[Any]:
        (cohort,) = told(engine, events, "2024-05-06", "2024-05-07", now)["cohorts"]
        found: list[Any] = cohort["returned"]
        return found

    assert returned("2024-05-09T00:00Z") == [0, 1, 1]
    assert returned("2024-05-08T23:59:59.999Z") == [0, 1, None]
    assert returned("2024-05-06T23:00Z") == [None, None, None]
    total = told(engine, events, "2024-05-06", "2024-05-08", "2024-05-08T12:00Z")["total"]
    assert (total["sizes"], total["returned"]) == ([1, 1, 0], [0, 1, 0])


def test_days_of_23_and_25_hours_are_days_and_weeks_begin_on_monday(engine: Engine) -> None:
    """In Berlin the clock is changed on 2024-03-31 and 2024-10-27, both Sundays."""
    spring = [made("signup", "2024-03-30T23:30+01:00"), made("view", "2024-03-31T23:30+02:00")]
    assert told(engine, spring, "2024-03-30", "2024-03-31", timezone="Europe/Berlin")["total"][
        "returned"
    ] == [0, 1, 0]
    autumn = [made("signup", "2024-10-27T00:30+02:00"), made("view", "2024-10-27T23:45+01:00")]
    berlin = {"timezone": "Europe/Berlin"}
    answer = told(engine, autumn, "2024-10-26T22:00Z", "2024-10-27T23:00Z", **berlin)
    assert [one["cohort"] for one in answer["cohorts"]] == ["2024-10-27T00:00:00.000+02:00"]
    assert answer["total"]["returned"] == [1, 0, 0]
    weeks = told(engine, autumn, "2024-10-26T22:00Z", "2024-10-27T23:00Z", group_by_time="week", **berlin)
    assert [one["cohort"] for one in weeks["cohorts"]] == ["2024-10-21T00:00:00.000+02:00"]
    months = told(engine, autumn, "2024-10-26T22:00Z", "2024-10-27T23:00Z", group_by_time="month", **berlin)
    assert [one["cohort"] for one in months["cohorts"]] == ["2024-10-01T00:00:00.000+02:00"]


def test_only_new_customers_if_that_is_asked_for(engine: Engine) -> None:
    events = [
        made("signup", "2024-01-01", "old"),
        *(made("signup", "2024-05-06T10:00Z", c) for c in ("old", "new")),
    ]
    assert told(engine, events, "2024-05-06", "2024-05-07")["total"]["sizes"] == [2, 2, 2]
    assert told(engine, events, "2024-05-06", "2024-05-07", new_only=True)["total"]["sizes"] == [1, 1, 1]


def test_the_largest_groups_are_told_and_all_are_in_the_total(engine: Engine) -> None:
    plans = [("b", 1), ("a", 1), ("c", 2), (None, 1)]
    events = [
        made("signup", "2024-05-06T10:00Z", f"{plan}{n}", **({"plan": plan} if plan else {}))
        for plan, size in plans
        for n in range(size)
    ]
    answer = told(engine, events, "2024-05-06", "2024-05-07", group_by=["plan"], limit=2)
    assert [group["group"]["plan"] for group in answer["groups"]] == ["c", "a"]
    assert [group["total"]["sizes"][0] for group in answer["groups"]] == [2, 1]
    assert answer["total"]["sizes"][0] == 5


def refused(**request: Any) -> dict[str, str]:
    with pytest.raises(ApiError) as caught:
        read_retention(json.dumps(request).encode(), NOW)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert refused(
        time_period="yesterdy",
        first={"event": "x"},
        group_by_time="wek",
        periods=101,
        group_by=["a", "b"],
        new_only=1,
    ) == {
        "$.time_period": 'unknown time period `yesterdy`, did you mean `yesterday`? or {"start": "…", "end": "…"}',
        "$.first.event": "unknown member `event`, did you mean `event_name`?",
        "$.group_by_time": "unknown group_by_time `wek`, did you mean `week`?",
        "$.periods": "expected integer <= 100",
        "$.group_by": "expected array of length <= 1",
        "$.new_only": "expected boolean, got integer",
    }
    assert refused(time_period="today") == {"$.first": "required field is missing"}
    years = {"start": "2020-01-01", "end": "2024-01-01"}
    assert refused(time_period=years, first={}) == {
        "$.time_period": "at most 400 cohorts; this has 1461: take a longer group_by_time"
    }
    many = {"filters": [{"field_name": "x", "op": "equals", "value": 1}] * 90}
    assert refused(time_period="today", first=many, returning=many, filters=many["filters"]) == {
        "$": "at most 100 filters in one request; this has 270"
    }
