"""Timelines: pages of one customer's events in both orders, sessions against plain Python, whose they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.findings import find_timeline
from app.scope import Scope
from app.timeline import read_timeline
from tests.analysis_data import EVENTS, PROJECTS, bounds, examples, filters, in_scope, periods, to_row
from tests.analysis_oracle import selected
from tests.analysis_turn import EngineTurn, found
from tests.query_engine import Engine

NOW = 1_900_000_000_000
WHOLE = {"start": "1970-01-01", "end": "2100-12-31"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        for project in PROJECTS:
            engine.insert([to_row(event, project) for event in EVENTS[project]])
        yield engine


def ask(engine: Engine, request: dict[str, Any], scope: Scope) -> dict[str, Any]:
    body = json.dumps({"time_period": WHOLE, **request}).encode()
    asked = read_timeline(body, NOW, scope.customer_identifier)
    return found(EngineTurn(engine, scope), asked, find_timeline)


def pages(engine: Engine, request: dict[str, Any], scope: Scope) -> Iterator[dict[str, Any]]:
    answer = ask(engine, request, scope)
    yield answer
    while answer["next"]:
        answer = ask(engine, {**request, "cursor": answer["next"]}, scope)
        yield answer


def sessions_of(times: list[int], gap_ms: int) -> list[tuple[int, int, int]]:
    """First, last and number of events, in the order of time."""
    sessions: list[list[int]] = []
    for moment in times:
        if not sessions or moment - sessions[-1][-1] > gap_ms:
            sessions.append([])
        sessions[-1].append(moment)
    return [(one[0], one[-1], len(one)) for one in sessions]


@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    project=st.sampled_from(PROJECTS),
    customer=st.sampled_from(["c1", "c2", "c3", "c9", "nobody"]),
    is_bound=st.booleans(),
    period=periods(),
    asked=st.lists(filters(), max_size=1),
    is_oldest_first=st.booleans(),
    limit=st.integers(1, 12),
    gap=st.sampled_from([1, 5, 6, 7, 60, 10_080]),
)
def test_pages_and_sessions_are_those_of_plain_python(
    engine: Engine,
    *,
    project: str,
    customer: str,
    is_bound: bool,
    period: dict[str, str],
    asked: list[dict[str, Any]],
    is_oldest_first: bool,
    limit: int,
    gap: int,
) -> None:
    request: dict[str, Any] = {
        "time_period": period,
        "filters": asked,
        "limit": limit,
        "session_gap_minutes": gap,
        "order": "oldest_first" if is_oldest_first else "newest_first",
        # A bound key's own customer wins.
        "customer_identifier": "c4" if is_bound else customer,
    }
    start, end = bounds(period)
    wanted = [
        event
        for event in in_scope(project, customer)
        if start <= event["event_time"] < end and selected(event, {"filters": asked})
    ]
    times = [event["event_time"] for event in wanted]
    ids = [event["unique_req_id"] for event in (wanted if is_oldest_first else reversed(wanted))]
    answers = list(pages(engine, request, Scope(project, customer if is_bound else None)))
    assert [event["unique_req_id"] for answer in answers for event in answer["data"]] == ids
    assert {event["customer_identifier"] for answer in answers for event in answer["data"]} <= {customer}
    assert all(answer["row_count"] == len(answer["data"]) <= limit for answer in answers)
    expected = sessions_of(times, gap * 60_000)
    for answer in answers:
        told = [
            (*(_ms(one[name]) for name in ("start", "end")), one["event_count"]) for one in answer["sessions"]
        ]
        assert told == expected[::-1]
        assert answer["session_count"] == len(expected)
        assert all(_ms(one["end"]) - _ms(one["start"]) == one["duration_ms"] for one in answer["sessions"])


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_the_newest_thousand_sessions_are_told(engine: Engine) -> None:
    rows = [
        {
            **to_row(EVENTS["dense"][0], "long"),
            "unique_req_id": f"{minute:032x}",
            "event_time": minute * 120_000,
            "customer_identifier": "c",
        }
        for minute in range(1005)
    ]
    engine.insert(rows)
    answer = ask(engine, {"customer_identifier": "c", "session_gap_minutes": 1, "limit": 1}, Scope("long"))
    assert answer["session_count"] == 1005
    assert len(answer["sessions"]) == 1000
    assert _ms(answer["sessions"][0]["start"]) == 1004 * 120_000


def test_a_session_goes_on_as_long_as_the_gap_and_ends_a_millisecond_later(engine: Engine) -> None:
    for project, last in (("in_time", 120_000), ("late", 120_001)):
        engine.insert(
            {
                **to_row(EVENTS["dense"][0], project),
                **{"unique_req_id": f"{moment:032x}", "event_time": moment, "customer_identifier": "c"},
            }
            for moment in (60_000, last)
        )
    whose = {"customer_identifier": "c", "session_gap_minutes": 1}
    assert ask(engine, whose, Scope("in_time"))["session_count"] == 1
    assert ask(engine, whose, Scope("late"))["session_count"] == 2


def test_without_sessions_there_are_none(engine: Engine) -> None:
    assert "sessions" not in ask(engine, {}, Scope("dense", "c1"))


def refused(bound_to: str | None = None, **request: Any) -> dict[str, str]:
    with pytest.raises(ApiError) as caught:
        read_timeline(json.dumps({"time_period": WHOLE, **request}).encode(), NOW, bound_to)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_everything_that_is_wrong_is_told_at_once(engine: Engine) -> None:
    whose = "required, since the key is bound to no customer: whose events?"
    assert refused() == {"$.customer_identifier": whose}
    assert refused(
        customer_identifier="", order="newest", session_gap_minutes=0, timezone="Mars", limt=1
    ) == {
        "$.customer_identifier": "expected string of length >= 1",
        "$.order": "unknown order `newest`, did you mean `newest_first`?",
        "$.session_gap_minutes": "expected integer >= 1",
        "$.timezone": "unknown time zone `Mars`, use an IANA name such as Europe/Berlin",
        "$.limt": "unknown member `limt`, did you mean `limit`?",
    }
    page = ask(engine, {"limit": 1}, Scope("dense", "c1"))["next"]
    other = "belongs to another query; only limit may change from page to page"
    assert refused("c1", cursor=page, order="oldest_first") == {"$.cursor": other}
    assert refused(customer_identifier="c2", cursor=page) == {"$.cursor": other}
    assert refused("c1", cursor="?") == {"$.cursor": "is no `next` of an answer; send it as it came"}
