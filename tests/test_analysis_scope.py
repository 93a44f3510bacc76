"""No analysis, however it is asked, sees more than its key may: not another project, not another customer, not
what was erased or is too old, in none of the SELECTs that it is made of."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import findings, usage
from app.cohorts import read_retention
from app.funnel import read_funnel
from app.scope import Erased, Scope
from app.seen_fields import read_seen_fields
from app.sql_usage import to_statement
from app.time_period import Period
from app.timeline import read_timeline
from tests.analysis_data import DAY, HOUR, START, examples, filters, random_events, to_row
from tests.analysis_turn import EngineTurn, found
from tests.query_engine import Engine
from tests.test_no_injection import HOSTILE

NOW = START + 200 * DAY
# Recorded in the order of the list, a second apart.
EVENTS = random_events("dense", 30, 3)
random.Random(3).shuffle(EVENTS)
for _index, _event in enumerate(EVENTS):
    _event["time_recorded"] = START + 1000 * _index
OLDEST, UP_TO = START + 1000 * 20, START + 1000 * 120
HOUR_OF = Period(START, START + HOUR)
ERASED = (
    Erased(up_to_ms=UP_TO, customers=("c3", "c4")),
    Erased(up_to_ms=UP_TO + 20_000, customers=("c5",), period=HOUR_OF),
)


def is_seen(event: dict[str, Any], customer: str | None) -> bool:
    """May the key see it?"""
    own, recorded = event.get("customer_identifier"), event["time_recorded"]
    in_hour = HOUR_OF.start_ms <= event["event_time"] < HOUR_OF.end_ms
    is_erased = (own in ("c3", "c4") and recorded <= UP_TO) or (
        own == "c5" and in_hour and recorded <= UP_TO + 20_000
    )
    return customer in (None, own) and recorded >= OLDEST and not is_erased


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """`all` has everything; the other projects have just what the keys of it may see."""
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        engine.insert([to_row(event, "all") for event in EVENTS])
        for project, customer in (("seen", None), ("seen_c1", "c1"), ("seen_c3", "c3"), ("seen_c5", "c5")):
            rows = [to_row(event, project) for event in EVENTS if is_seen(event, customer)]
            assert 0 < len(rows) < len(EVENTS)
            engine.insert(rows)
        yield engine


def timeline(body: bytes, now_ms: int) -> Any:
    return read_timeline(body, now_ms, None)


Analysis = tuple[Callable[[bytes, int], Any], Callable[[Any, Any], Awaitable[Any]]]
ANALYSES: dict[str, Analysis] = {
    "funnel": (read_funnel, findings.find_funnel),
    "retention": (read_retention, findings.find_retention),
    "timeline": (timeline, findings.find_timeline),
    "fields": (read_seen_fields, findings.find_fields),
}


def hostile(name: str, *names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Requests that name other customers, and the fields `names` beside, wherever they can."""
    own = ["customer_identifier", *names]
    others = st.fixed_dictionaries(
        {
            "field_name": st.sampled_from(own),
            "op": st.sampled_from(["equals", "not_equals", "in", "contains", "is_null", "is_not_null"]),
            "value": st.sampled_from(["c1", "c2", "c3", "c5", "all", "seen", *HOSTILE[:6]]),
        }
    ).map(lambda one: {k: v for k, v in one.items() if k != "value"} if "null" in one["op"] else one)
    listed = others.map(lambda one: {**one, "value": [one["value"]]} if one["op"] == "in" else one)
    either = st.lists(listed, min_size=1, max_size=2).map(lambda some: {"or": some})
    asked = st.lists(st.one_of(listed, either, filters()), max_size=2)
    some = st.fixed_dictionaries({"filters": asked})
    request: dict[str, st.SearchStrategy[Any]] = {
        "time_period": st.just({"start": "1970-01-01", "end": "2100-12-31"}),
        "filters": asked,
    }
    groups = st.lists(st.sampled_from([*own, "plan"]), max_size=1)
    if name == "funnel":
        request |= {"steps": st.lists(some, min_size=2, max_size=3), "group_by": groups}
        request["by"] = st.sampled_from([*own, "session"])
    elif name == "retention":
        request["time_period"] = st.just({"start": "2024-03-25T00:30Z", "end": "2024-03-26"})
        request |= {"first": some, "returning": some, "group_by": groups, "new_only": st.booleans()}
        request["by"] = st.sampled_from([*own, "session"])
    elif name == "timeline":
        request |= {"customer_identifier": st.sampled_from(["c1", "c2", "c3", "c5", *HOSTILE[:6]])}
        request |= {"session_gap_minutes": st.integers(1, 30), "limit": st.just(1000)}
    return st.fixed_dictionaries(request)


@settings(
    max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), customer=st.sampled_from([None, "c1", "c3", "c5"]))
@pytest.mark.parametrize("name", ANALYSES)
def test_what_lies_outside_changes_nothing(
    engine: Engine, name: str, data: st.DataObject, customer: str | None
) -> None:
    """Asked of everything within a scope, and asked without one where nothing else is: the same answers."""
    request = data.draw(hostile(name))
    read, find = ANALYSES[name]
    asked = read(json.dumps(request).encode(), NOW)
    within = EngineTurn(engine, Scope("all", customer, ERASED, OLDEST))
    project = "seen" if customer is None else f"seen_{customer}"
    answer, expected = found(within, asked, find), found(EngineTurn(engine, Scope(project)), asked, find)
    assert without_estimates(answer) == without_estimates(expected)


def without_estimates(answer: dict[str, Any]) -> dict[str, Any]:
    """Which of several equally frequent values are the examples is chance."""
    for field in answer.get("fields", []):
        del field["examples"]
    return {name: value for name, value in answer.items() if name != "next"}


SCOPED = re.compile(
    r"FROM events WHERE project_id = \{(p\d+):String\} AND customer_identifier = \{(p\d+):String\} AND "
)


@settings(
    max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("name", ANALYSES)
def test_every_select_of_events_begins_with_the_scope(engine: Engine, name: str, data: st.DataObject) -> None:
    read, find = ANALYSES[name]
    turn = EngineTurn(engine, Scope("all", "c1", ERASED, OLDEST))
    found(turn, read(json.dumps(data.draw(hostile(name, "project_id"))).encode(), NOW), find)
    assert turn.statements
    for sql, parameters in turn.statements:
        assert_scoped(sql, parameters, "all", "c1")


def assert_scoped(sql: str, parameters: Any, project: str, customer: str) -> None:
    """Each read of a table is one of `events`, and its condition begins with the scope and ends with what was
    erased, with no OR on the level between."""
    reads = re.findall(r"\b(?:FROM|JOIN)\s+(?!\()", sql)
    scoped = SCOPED.findall(sql)
    assert len(scoped) == len(reads) > 0
    assert {(parameters[p], parameters[c]) for p, c in scoped} == {(project, customer)}
    for match in SCOPED.finditer(sql):
        depth, level = 0, []
        for token in re.findall(r"`(?:[^`\\]|\\.)*`|'(?:[^'\\]|\\.)*'|[()]|\w+", sql[match.end() :]):
            depth += (token == "(") - (token == ")")
            if depth < 0 or (depth == 0 and token in ("GROUP", "ORDER", "LIMIT")):
                break
            if depth == 0:
                level.append(token)
        assert "OR" not in level
        assert level.count("time_recorded") >= 1


def test_usage_begins_with_the_scope() -> None:
    wanted = usage.to_usage(usage.UsageRequest("all", "today"), NOW)
    sql, parameters = to_statement(wanted, Scope("all", "c1", ERASED, OLDEST))
    assert_scoped(sql, parameters, "all", "c1")
