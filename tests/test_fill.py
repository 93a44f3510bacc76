"""`fill`: every bucket of the period is there once, whatever the clocks of its zone do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.fill import MAX_BUCKETS
from app.query import read_query
from tests.query_data import EVENTS, ZONES, scope, to_row
from tests.query_engine import Engine
from tests.query_oracle import bucket_of, compute, same, value_of

DAY = 86_400_000
FUNCTIONS = ("max", "avg", "p90", "median")
# So many milliseconds apart, moments miss no bucket; spans are days.
STEPS = {"minute": 60_000, "5_minutes": 300_000, "hour": 900_000}
SPANS = {"minute": 0.5, "5_minutes": 2, "hour": 4, "day": 20, "week": 60, "month": 200, "year": 800}
# Before each of the moments at which events of `EVENTS` lie, and others at which clocks are changed.
BEGINS = ["2018-11-02", "2024-03-29", "2024-10-25", "2024-12-30", "1970-01-01", "2024-10-03", "2011-12-28"]
ODD_ZONES = ["Australia/Lord_Howe", "Pacific/Apia"]  # half an hour, and a day that never was


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("engine"))) as opened:
        opened.insert(map(to_row, EVENTS))
        yield opened


def ask(engine: Engine, **request: Any) -> list[dict[str, Any]]:
    query = read_query(json.dumps({"fill": True, "limit": 10_000, **request}).encode(), 0)
    data: list[dict[str, Any]] = engine.answer(query, scope())["data"]
    return data


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def buckets(start: int, end: int, length: str, zone: str) -> list[int]:
    step = STEPS.get(length, 3 * 3_600_000)
    return sorted({bucket_of(moment, length, zone) for moment in (*range(start, end, step), end - 1)})


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    length, zone = draw(st.sampled_from([*SPANS])), draw(st.sampled_from([*ZONES, *ODD_ZONES]))
    begin = (
        ms(draw(st.sampled_from(BEGINS)) + "T00:00:00+00:00") + draw(st.integers(0, 3 * DAY // 1000)) * 1000
    )
    end = begin + draw(st.integers(1, int(SPANS[length] * DAY) // 1000)) * 1000
    return {
        "group_by_time": length,
        "timezone": zone,
        "time_period": {"start": iso(begin), "end": iso(end)},
        "group_by": draw(st.sampled_from([[], ["utm_source"], ["is_bot", "n.a"]])),
    }


def iso(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000).astimezone().isoformat()


@settings(max_examples=20, deadline=None)
@given(asked())
def test_rows_are_those_of_the_oracle(engine: Engine, request: dict[str, Any]) -> None:
    start, end = (ms(request["time_period"][name]) for name in ("start", "end"))
    length, zone, names = request["group_by_time"], request["timezone"], request["group_by"]
    computations = [
        *({"function": "count"}, {"function": "count_distinct", "field_name": "X"}),
        *({"function": function, "field_name": "X"} for function in FUNCTIONS),
    ]
    found: dict[Any, dict[str, Any]] = {}
    for row in ask(engine, **request, computations=computations):
        key = (ms(row["event_time"]), *(same(row[name]) for name in names))
        assert key not in found, "a bucket of a group is there twice"
        found[key] = row
    members: dict[Any, list[Any]] = {}
    for event in EVENTS:
        if start <= event["event_time"] < end:
            key = (
                bucket_of(event["event_time"], length, zone),
                *(same(value_of(event, name)) for name in names),
            )
            members.setdefault(key, []).append(event)
    groups = {key[1:] for key in members} if names else {()}
    expected = {(moment, *group) for moment in buckets(start, end, length, zone) for group in groups}
    assert found.keys() == expected
    for key, row in found.items():
        inside = members.get(key, [])
        assert row["count"] == len(inside)
        assert row["count_distinct_X"] == compute("count_distinct", "X", inside)
        for function in FUNCTIONS:
            value = compute(function, "X", inside)
            # Exactness is the matter of tests/test_sql.py; here it is that no other row's value shows through.
            assert row[f"{function}_X"] == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"])
@pytest.mark.parametrize("length", ["hour", "day"])
def test_what_is_not_empty_stays_as_it_is(engine: Engine, zone: str, length: str) -> None:
    """Also where clocks are changed by half an hour, or a day is skipped: the buckets are the engine's own."""
    request = {"group_by_time": length, "timezone": zone, "computations": [{"function": "count"}]}
    for begin in ("2024-10-05", "2024-04-06", "2011-12-28", "1985-12-30", "2024-12-28"):
        period = {"start": begin, "end": iso(ms(f"{begin}T00:00:00+00:00") + 5 * DAY + 1)}
        rows = ask(engine, **request, time_period=period)
        moments = [ms(row["event_time"]) for row in rows]
        assert moments == sorted(set(moments))
        gaps = {later - earlier for earlier, later in itertools.pairwise(moments)}
        assert max(gaps) <= (DAY + 2 * 3_600_000 if length == "day" else 3_600_000)
        plain = ask(engine, **request, time_period=period, fill=False)
        assert [row for row in rows if row["count"]] == plain


def test_order_and_pages_count_filled_rows(engine: Engine) -> None:
    request = {
        "group_by_time": "hour",
        "time_period": {"start": "2024-03-30", "end": "2024-04-01"},
        "group_by": ["event_name"],
        "computations": [{"function": "count"}, {"function": "max", "field_name": "x", "as": "m"}],
        "order_by": [{"field_name": "count", "direction": "DESC"}, {"field_name": "event_name"}],
    }
    rows = ask(engine, **request)
    assert len(rows) == 2 * 48
    counts = [row["count"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    pages = [row for offset in range(0, 96, 40) for row in ask(engine, **request, limit=40, offset=offset)]
    assert pages == rows
    nulls = [row["m"] is None for row in ask(engine, **{**request, "order_by": [{"field_name": "m"}]})]
    assert nulls == sorted(nulls)


def test_nothing_is_filled_with_nothing(engine: Engine) -> None:
    request = {"group_by_time": "day", "time_period": {"start": "2001-01-01", "end": "2001-01-04"}}
    empty = [{"event_time": f"2001-01-0{day}T00:00:00.000Z"} for day in (1, 2, 3)]
    assert ask(engine, **request) == empty
    assert ask(engine, **request, computations=[{"function": "count"}]) == [
        {**row, "count": 0} for row in empty
    ]
    assert ask(engine, **request, group_by=["event_name"]) == []  # no group was seen


def test_too_many_buckets_are_refused_before_the_store_is_asked() -> None:
    def read(**request: Any) -> None:
        read_query(json.dumps({"fill": True, "group_by_time": "minute", **request}).encode(), 0)

    read(
        time_period={
            "start": "2020-01-01",
            "end": iso(ms("2020-01-01T00:00:00+00:00") + MAX_BUCKETS * 60_000),
        }
    )
    with pytest.raises(ApiError) as caught:
        read(time_period={"start": "2020-01-01", "end": "2020-02-01"})
    [problem] = caught.value.problems
    assert problem.path == "$.fill"
    assert "44,640" in problem.message
