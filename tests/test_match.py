"""One event in memory against the filters of a query: what the real engine finds, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from app.errors import Problem
from app.filters import read_filters
from app.match import matcher
from tests.query_data import COLUMNS, EVENTS, ask, conditions, to_row
from tests.query_engine import Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        engine.insert([to_row(event) for event in EVENTS])
        yield engine


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """The event as whoever holds only its record sees it: the body decoded, the envelope laid over it."""
    row = to_row(event)
    columns = {name: event.get(name) for name in ("customer_identifier", "utm_source", *COLUMNS)}
    decoded: dict[str, Any] = msgspec.json.decode(row["body"])
    return {**decoded, **columns}


SHOWN = [shown(event) for event in EVENTS]


def found(asked: list[dict[str, Any]]) -> list[str]:
    problems: list[Problem] = []
    holds = matcher(read_filters(asked, problems))
    assert not problems
    return sorted(event["unique_req_id"] for event in SHOWN if holds(event))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=conditions())
def test_it_finds_what_the_engine_finds(engine: Engine, asked: list[dict[str, Any]]) -> None:
    rows = ask(engine, {"group_by": ["unique_req_id"], "filters": asked})
    assert found(asked) == sorted(row["unique_req_id"] for row in rows), json.dumps(asked)


def test_moments_are_compared_as_moments(engine: Engine) -> None:
    condition = {"op": "less_than", "value": "2024-10-27T02:30:00+01:00"}
    for name in ("event_time", "time_recorded"):
        asked = [{"field_name": name, **condition}]
        rows = ask(engine, {"group_by": ["unique_req_id"], "filters": asked})
        assert found(asked) == sorted(row["unique_req_id"] for row in rows)
    assert 0 < len(found([{"field_name": "event_time", **condition}])) < len(EVENTS)
