"""Random queries over random events: the real engine must answer what plain Python answers.

Two hundred in every run; `make oracle` asks 2,000, `make oracle QUERIES=20000` more, each time others. A
difference is shrunk by hypothesis to the smallest events and the smallest query that show it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from app.query import read_query
from app.scope import Scope
from tests.oracle_cases import event_lists, filter_trees, many_events, now_of, pool_of, requests
from tests.query_answer import evaluate, newest_first
from tests.query_data import to_row
from tests.query_engine import Engine
from tests.query_oracle import alike

QUERIES = int(os.environ.get("QUERIES") or 200)
OF_ONE_SET = 5  # queries of the same events
IS_LONG = QUERIES > 1000
asked: Counter[str] = Counter()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        yield engine


class Case:
    """Some events in a project of their own, so that nothing need be cleared away."""

    count = 0

    def __init__(self, engine: Engine, events: list[dict[str, Any]], cut: int) -> None:
        Case.count += 1
        self.project, self.engine, self.events = f"p{Case.count}", engine, events
        rows = [{**to_row(event), "project_id": self.project} for event in events]
        # Two inserts: paths and types then differ from part to part.
        for some in (rows[:cut], rows[cut:]):
            if some:
                engine.insert(some)

    def check(self, request: dict[str, Any]) -> None:
        """Errors: AssertionError where engine and Python differ."""
        now_ms = now_of(self.events)
        query = read_query(json.dumps(request).encode(), now_ms)
        rows = self.engine.answer(query, Scope(self.project))["data"]
        if query.is_raw:
            assert [row["unique_req_id"] for row in rows] == newest_first(request, self.events, now_ms)
            return
        wanted = evaluate(request, self.events, now_ms)
        assert len(rows) == len(wanted)
        for row, expected in zip(rows, wanted, strict=True):
            assert list(row) == list(expected)
            for name, cell in row.items():
                is_bucket = name == "event_time" and cell is not None
                value = round(datetime.fromisoformat(cell).timestamp() * 1000) if is_bucket else cell
                assert alike(value, expected[name]), (name, value, expected[name])


@pytest.mark.timeout(3600)
def test_random_queries_of_random_events_answer_what_plain_python_answers(engine: Engine) -> None:
    # Few events shrink to what is wrong; in many, groups have members and quantiles something between them.
    of_many = many_events()
    many, of_their_pool = Case(engine, of_many, len(of_many) // 2), filter_trees(pool_of(of_many))

    @settings(
        max_examples=max(1, QUERIES // OF_ONE_SET),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        if data.draw(st.sampled_from([False, True, True]), "of many events"):
            case, events, filters = many, of_many, of_their_pool
        else:
            events = data.draw(event_lists(), "events")
            case = Case(engine, events, data.draw(st.integers(0, len(events)), "in the first insert"))
            filters = filter_trees(pool_of(events))
        for _ in range(OF_ONE_SET):
            request = data.draw(requests(events, filters), "query")
            case.check(request)
            count(request, len(events))

    if not IS_LONG:  # the same ones in every run: who breaks something should be the one to see it
        ask = seed(5)(ask)
    ask()
    print(f"\n{asked['queries']} queries, 0 differences: {dict(asked.most_common())}")
    assert asked["queries"] >= QUERIES


def count(request: dict[str, Any], events: int) -> None:
    """What was asked, so that nobody need believe that it was much."""
    asked["queries"] += 1
    asked["events asked of"] += events
    asked["with nested or"] += '"or"' in json.dumps(request["filters"])
    asked["filtered"] += bool(request["filters"])
    asked["grouped"] += bool(request.get("group_by"))
    asked["by time"] += "group_by_time" in request
    asked["filled"] += "fill" in request
    asked["raw"] += "computations" not in request
    asked["in words"] += isinstance(request["time_period"], str)
    for item in request.get("computations", []):
        asked[item["function"]] += 1
