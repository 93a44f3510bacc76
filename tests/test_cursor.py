"""Paging through raw events: nothing is left out or comes twice, whatever arrives in between."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import cursor
from app.cursor import Position
from app.errors import ApiError
from app.query import Query, read_query
from app.scope import Scope
from app.time_period import Period
from tests.query_data import EVENTS, WHOLE, scope, to_row
from tests.query_engine import Engine

NOW = 1_700_000_000_000
DAY = 86_400_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Many events have one time, and some of these one time of recording."""
    with Engine(str(tmp_path_factory.mktemp("engine"))) as opened:
        rows = [to_row(event) for event in EVENTS]
        opened.insert({**row, "time_recorded": row["time_recorded"] // 4 * 4} for row in rows)
        yield opened


def read(request: dict[str, Any], now: int = NOW) -> Query:
    return read_query(json.dumps(request).encode(), now)


def pages(engine: Engine, request: dict[str, Any], limits: list[int], seen: Scope) -> list[list[str]]:
    """The ids of every page; the limits take turns."""
    found: list[list[str]] = []
    following: dict[str, Any] = {}
    while True:
        limit = limits[len(found) % len(limits)]
        answer = engine.answer(read({**request, **following, "limit": limit}), seen)
        found.append([row["unique_req_id"] for row in answer["data"]])
        assert len(found[-1]) <= limit
        if answer["next"] is None:
            return found
        assert len(found[-1]) == limit
        following = {"cursor": answer["next"]}


@settings(max_examples=15, deadline=None)
@given(
    order_by=st.lists(
        st.fixed_dictionaries(
            {"field_name": st.sampled_from(cursor.PAGED_BY), "direction": st.sampled_from(["ASC", "DESC"])}
        ),
        max_size=2,
    ),
    limits=st.lists(st.sampled_from([31, 60, 299, 300, 301]), min_size=1, max_size=3),
    customer=st.sampled_from([None, "c1"]),
    filters=st.sampled_from([[], [{"field_name": "event_name", "op": "equals", "value": "view"}]]),
    offset=st.sampled_from([0, 3]),
)
def test_the_pages_together_are_the_whole(
    engine: Engine,
    *,
    order_by: list[dict[str, str]],
    limits: list[int],
    customer: str | None,
    filters: list[dict[str, Any]],
    offset: int,
) -> None:
    request = {**WHOLE, "order_by": order_by, "filters": filters, "offset": offset}
    whole = engine.answer(read(request), scope(customer))
    assert whole["next"] is None
    expected = [row["unique_req_id"] for row in whole["data"]]
    found = pages(engine, request, limits, scope(customer))
    assert [one for page in found for one in page] == expected
    assert found[-1] or not expected, "a next leads to something"


def test_what_arrives_meanwhile_moves_nothing(tmp_path: Any) -> None:
    """Neither an event that is newer than the page, nor an older one that comes late, nor the passing time."""
    with Engine(str(tmp_path / "data")) as engine:

        def add(*ages: int) -> None:
            engine.insert(
                {
                    "event_name": "e",
                    "event_time": NOW - age * DAY,
                    "time_recorded": NOW,
                    "unique_req_id": f"{age:032x}",
                    "customer_identifier": "",
                    "event_id": "",
                    "body": '{"event_name":"e"}',
                }
                for age in ages
            )

        def ages(answer: dict[str, Any]) -> list[int]:
            return [int(row["unique_req_id"], 16) for row in answer["data"]]

        add(2, 4, 6, 8, 10)
        request = {"time_period": "minus_11_days", "limit": 2}
        first = engine.answer(read(request), scope())
        assert ages(first) == [2, 4]
        add(1, 3, 5, 12)
        # Two days later the period would begin after the event of ten days ago.
        second = engine.answer(read({**request, "cursor": first["next"]}, NOW + 2 * DAY), scope())
        assert ages(second) == [5, 6]
        assert second["time_period"] == first["time_period"]
        third = engine.answer(read({**request, "cursor": second["next"]}, NOW + 4 * DAY), scope())
        assert (ages(third), third["next"]) == ([8, 10], None)
        # What is erased or too old by then is not shown, whoever holds a cursor.
        narrowed = Scope("p", oldest_ms=NOW + 1)
        assert engine.answer(read({**request, "cursor": first["next"]}), narrowed)["data"] == []
        assert engine.answer(read({**request, "cursor": first["next"]}), Scope("q"))["data"] == []


def problem(request: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        read(request)
    [found] = caught.value.problems
    assert found.path == "$.cursor"
    return found.message


QUERY = {"time_period": "minus_5_days", "filters": [{"field_name": "x", "op": "equals", "value": 1}]}
PLACE = Position(NOW, NOW, "0" * 32)


def written(request: dict[str, Any], period: Period = Period(NOW - DAY, NOW)) -> str:  # noqa: B008
    return cursor.write(read(request).digest, period, PLACE)


@pytest.mark.parametrize(
    "other",
    [
        {"time_period": "minus_6_days"},
        {"timezone": "Europe/Berlin"},
        {"filters": [{"field_name": "x", "op": "equals", "value": 2}]},
        {"filters": []},
        {"order_by": [{"field_name": "event_time"}]},
    ],
)
def test_a_cursor_belongs_to_one_query(other: dict[str, Any]) -> None:
    mine = written(QUERY)
    assert "another query" in problem({**QUERY, **other, "cursor": mine})
    page = read({**QUERY, "cursor": mine, "limit": 5, "offset": 3}, NOW + 5 * DAY)
    assert (page.after, page.period, page.offset) == (PLACE, Period(NOW - DAY, NOW), 0)


def forged(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "é",
        "=" * 10,
        written(QUERY)[:-5],
        written(QUERY) + "A",
        forged(1, read(QUERY).digest, 0, 1),
        forged(1, read(QUERY).digest, -1, 1, [0, 0, "0" * 32]),
        forged(1, read(QUERY).digest, 0, 2**63, [0, 0, "0" * 32]),
        forged(1, read(QUERY).digest, 0, 1, [0, 0, "'"]),
        forged(1, read(QUERY).digest, 0, 1, [0, 2**62, "0" * 32]),
        forged(1, read(QUERY).digest, 5, 5, [0, 0, "0" * 32]),
        forged(2, read(QUERY).digest, 0, 1, [0, 0, "0" * 32]),
        forged(1, read(QUERY).digest, 0, 1, [0, 0, "0" * 32], "more"),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    message = problem({**QUERY, "cursor": text})
    assert "as it came" in message or "first page" in message


def test_orders_that_cannot_be_paged_say_so(engine: Engine) -> None:
    request = {**WHOLE, "order_by": [{"field_name": "x"}], "limit": 5}
    assert engine.answer(read(request), scope())["next"] is None
    assert "use offset" in problem({**request, "cursor": written(WHOLE)})
    assert "use offset" in problem({**WHOLE, "group_by": ["x"], "cursor": written(WHOLE)})
    assert "next" not in engine.answer(read({**WHOLE, "group_by": ["event_name"]}), scope())
