"""Funnels: the SQL against plain Python on the real engine, the rules one by one, and what is refused."""

from __future__ import annotations

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
from tests.analysis_data import EVENTS, PROJECTS, bounds, filters, in_scope, periods, scope, selections, to_row
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
