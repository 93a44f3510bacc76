"""Retention: the SQL against plain Python on the real engine, the rules one by one, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cohorts import read_retention, tables
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
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
