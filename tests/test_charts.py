"""What a chart draws: numbers as people read them, axes, every bucket, and the largest series of many. No I/O."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from app.chart import Chart
from app.chart_data import MAX_BARS, Plot, to_plot
from app.chart_numbers import compact, full, ticks
from app.chart_page import Shown, chart_page, message_page
from app.chart_request import ChartQuery, ChartRequest, TokenRequest, read_chart_query
from app.chart_svg import LAYOUTS, draw
from app.chart_time import at, axis_labels, bucket_starts, moment_of, name, span
from app.errors import ApiError
from app.query_request import Bucket
from app.scope import Scope
from app.time_period import Period, read_zone
from tests.query_data import MOMENTS
from tests.query_engine import Engine
from tests.service import ROOT

NOW = int(datetime(2026, 10, 15, 12, tzinfo=UTC).timestamp() * 1000)
COUNT = {"function": "count"}
finite = st.floats(allow_nan=False, allow_infinity=False)
# Two of anything, and two that differ as averages of the same prices do.
pairs = st.tuples(finite, finite) | st.tuples(finite, st.floats(-17, -1)).map(
    lambda pair: (pair[0] / 2, pair[0] / 2 * (1 + 10 ** pair[1]))
)


def asked(**body: Any) -> ChartQuery:
    return read_chart_query(json.dumps({"time_period": "minus_7_days"} | body).encode(), NOW)


def plot(rows: list[dict[str, Any]], **body: Any) -> Plot:
    chart = asked(**body)
    return to_plot(chart.chart, chart.query, rows, NOW)


def page(rows: list[dict[str, Any]], **body: Any) -> str:
    chart = asked(**body)
    return chart_page(Shown(chart.chart, chart.query, rows, NOW, NOW))


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (0, "0", "0"),
        (999, "999", "999"),
        (1200, "1.2k", "1,200"),
        (999_950, "1M", "999,950"),
        (3_400_000, "3.4M", "3,400,000"),
        (5_678_000_000, "5.68B", "5,678,000,000"),
        (-1234.5, "−1.23k", "−1,234.5"),
        (0.00123, "0.00123", "0.00123"),
        (1e-9, "1e-09", "1e-09"),
        (2**70, "1.18e+21", "1,180,591,620,717,411,303,424"),
        (1.7e308, "1.7e+308", "1.7e+308"),
    ],
)
def test_numbers_are_short_on_axes_and_exact_in_tables(value: float, short: str, long: str) -> None:
    assert (compact(value), full(value)) == (short, long)


@settings(deadline=None)
@given(pairs, st.booleans(), st.integers(3, 14))
@example((84.8, 84.80000000000001), False, 5)
@example((802024540629.487, 802024540629.4872), False, 6)
def test_ticks_enclose_what_is_drawn_and_are_few(pair: tuple[float, float], zero: bool, most: int) -> None:
    low, high = sorted((pair[0] / 1e10, pair[1] / 1e10))
    if 0 < max(abs(low), abs(high)) < 1e-290:
        return
    found = ticks(low, high, most, from_zero=zero)
    assert 2 <= len(found) <= most + 2
    step = found[1] - found[0]
    assert found[0] <= low + step / 1e6
    assert found[-1] >= high - step / 1e6
    assert all(abs((b - a) / step - 1) < 1e-6 for a, b in pairwise(found))
    assert not zero or 0.0 in found
    labels = [compact(value, step) for value in found]
    assert len(set(labels)) == len(labels), labels


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2024-10-27", 25),
        ("Europe/Berlin", "2024-03-31", 23),
        ("Asia/Kolkata", "2024-03-31", 24),
    ],
)
def test_a_day_has_the_hours_it_has_there(zone: str, day: str, hours: int) -> None:
    here = read_zone(zone)
    start = datetime.fromisoformat(day).replace(tzinfo=here)
    period = Period(
        int(start.timestamp()) * 1000,
        int(start.replace(day=start.day + 0).timestamp()) * 1000 + hours * 3_600_000,
    )
    starts = list(bucket_starts(period, Bucket.HOUR, here))
    assert len(starts) == hours
    assert {at(moment, here).minute for moment in starts} == {0}


@pytest.mark.parametrize("bucket", Bucket)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata"])
def test_buckets_follow_one_another_without_a_gap_and_labels_are_few(bucket: Bucket, zone: str) -> None:
    here = read_zone(zone)
    length = {"minute": 1, "5_minutes": 5, "hour": 60}.get(bucket.value, 1440 * 40) * 60_000 * 30
    for year in (2018, 2024):
        start = int(datetime(year, 10, 20, 3, 17, tzinfo=UTC).timestamp()) * 1000
        starts = list(bucket_starts(Period(start, start + length), bucket, here))
        assert starts[0] <= start < starts[1] if len(starts) > 1 else starts[0] <= start
        assert starts == sorted(set(starts))
        assert starts[-1] < start + length
        moments = [at(moment, here) for moment in starts]
        assert (
            len({name(moment, bucket) for moment in moments}) >= len(moments) - 60
        )  # an hour may come twice
        for most in (3, 6, 14):
            labels = [label for label in axis_labels(moments, bucket, most) if label]
            assert 1 <= len(labels) <= most, (labels, bucket)


def test_labels_stand_at_round_moments() -> None:
    starts = bucket_starts(Period(NOW - 86_400_000, NOW), Bucket.HOUR, UTC)
    labels = [x for x in axis_labels([at(s, UTC) for s in starts], Bucket.HOUR, 5) if x]
    assert labels == ["12:00", "18:00", "15 Oct", "06:00"]
    days = [at(s, UTC) for s in bucket_starts(Period(NOW - 60 * 86_400_000, NOW), Bucket.DAY, UTC)]
    assert [x for x in axis_labels(days, Bucket.DAY, 5) if x] == [
        "17 Aug",
        "31 Aug",
        "14 Sep",
        "28 Sep",
        "12 Oct",
    ]
    months = [at(s, UTC) for s in bucket_starts(Period(NOW - 500 * 86_400_000, NOW), Bucket.MONTH, UTC)]
    assert [x for x in axis_labels(months, Bucket.MONTH, 6) if x] == [
        "Jul",
        "Oct",
        "2026",
        "Apr",
        "Jul",
        "Oct",
    ]


def test_a_period_is_told_as_a_person_would() -> None:
    day = datetime(2026, 10, 1, tzinfo=UTC)
    assert span(day, day.replace(hour=23, minute=59, second=59)) == "1 Oct 2026"
    assert span(day, day.replace(day=30, hour=23, minute=59)) == "1 Oct 2026 – 30 Oct 2026"
    assert span(day.replace(hour=9), day.replace(hour=17, minute=30)) == "1 Oct 2026, 09:00 – 17:30"


def test_every_bucket_up_to_now_has_a_place() -> None:
    rows = [{"event_time": "2026-10-10T00:00:00.000Z", "count": 5}]
    drawn = plot(rows, group_by_time="day", computations=[COUNT], time_period="this_month")
    assert len(drawn.names) == 15, "the rest of the month has not happened"
    assert drawn.series[0].values == (*[0] * 9, 5, *[0] * 5)
    average = {"function": "avg", "field_name": "n"}
    rows = [
        {"event_time": "2026-10-10T00:00:00.000Z", "avg_n": None},
        {"event_time": "2026-10-11T00:00:00.000Z", "avg_n": 2.5},
    ]
    drawn = plot(rows, group_by_time="day", computations=[average])
    assert {*drawn.series[0].values} == {None, 2.5}, "no events have no average"


def test_more_points_than_a_chart_has_are_refused_with_what_fits() -> None:
    rows = [{"event_time": f"2026-10-{day}T00:00:00.000Z", "count": 1} for day in ("09", "14")]
    with pytest.raises(ApiError, match='"5_minutes" gives about 1,441'):
        plot(rows, group_by_time="minute", computations=[COUNT])
    assert (
        len(plot(rows[1:], group_by_time="minute", computations=[COUNT], time_period="this_month").names) == 1
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(1, 8))
def test_what_is_summed_up_as_other_is_not_lost(counts: list[int], top: int) -> None:
    rows = [{"plan": f"p{i}", "count": count} for i, count in enumerate(counts)]
    body: dict[str, Any] = {"group_by": ["plan"], "computations": [COUNT]}
    pie = plot(rows, **body, chart={"type": "pie", "top": top})
    assert sum(one.values[0] or 0 for one in pie.series) == sum(counts)
    assert len(pie.series) <= top + 1
    bars = plot(rows, **body)
    assert sum(value or 0 for value in bars.series[0].values) == sum(counts)
    assert len(bars.names) <= MAX_BARS + 1
    at_once = [row | {"event_time": "2026-10-14T00:00:00.000Z"} for row in rows]
    area = plot(at_once, **body, group_by_time="day", chart={"type": "area", "top": top})
    assert sum(value or 0 for one in area.series for value in one.values) == sum(counts)
    assert area.stacks


def test_a_sum_of_the_others_that_no_float_holds_is_left_out_and_said() -> None:
    rows = [{"plan": f"p{i}", "sum_n": 1.7e308} for i in range(4)]
    body: dict[str, Any] = {"group_by": ["plan"], "computations": [{"function": "sum", "field_name": "n"}]}
    pie = plot(rows, **body, chart={"type": "pie", "top": 1})
    assert pie.series[-1].values == (None,)
    assert "beyond the largest number" in pie.notes[0]
    assert "<bdi>other (3)</bdi><b>–</b>" in page(rows, **body, chart={"type": "pie", "top": 1})
    assert plot(rows[:2], **body, chart={"type": "pie", "top": 1}).notes == ()


def test_averages_are_not_added_up() -> None:
    rows = [{"plan": f"p{i:02}", "avg_n": 100.0 - i} for i in range(40)]
    body: dict[str, Any] = {"group_by": ["plan"], "computations": [{"function": "avg", "field_name": "n"}]}
    bars = plot(rows, **body)
    assert len(bars.names) == MAX_BARS
    assert bars.notes == ("20 of 40 groups are shown.",)
    drawn = plot([r | {"event_time": "2026-10-14T00:00:00.000Z"} for r in rows], **body, group_by_time="day")
    assert drawn.notes == ("The 8 largest of 40 series are shown.",)
    assert not drawn.stacks


def test_groups_that_look_alike_stay_apart() -> None:
    long = "x" * 200
    alike = [None, "(none)", 1, "1", True, "true", "", " ", f"{long}a", f"{long}b", [1], "[1]"]
    rows = [{"plan": value, "count": 1} for value in alike]
    bars = plot(rows, group_by=["plan"], computations=[COUNT])
    assert bars.series[0].values == (1,) * len(alike)
    at_once = [row | {"event_time": "2026-10-14T00:00:00.000Z"} for row in rows]
    drawn = plot(at_once, group_by=["plan"], computations=[COUNT], group_by_time="day")
    assert sum(one.values[-2] or 0 for one in drawn.series) == len(alike)
    assert drawn.series[-1].name == "other (4)"


def test_of_two_groups_the_second_is_a_series() -> None:
    rows = [
        {"country": country, "plan": plan, "count": count}
        for country, plan, count in (("DE", "free", 5), ("FR", "free", 4), ("FR", "pro", 3), (None, "pro", 1))
    ]
    drawn = plot(rows, group_by=["country", "plan"], computations=[COUNT])
    assert drawn.names == ("FR", "DE", "(none)"), "the largest first"
    assert {one.name: one.values for one in drawn.series} == {"free": (4, 5, None), "pro": (3, None, 1)}


@pytest.mark.parametrize("kind", ["line", "area", "bar"])
def test_what_is_drawn_is_svg_without_styles_or_scripts_and_says_its_values(kind: str) -> None:
    rows = [
        {"event_time": f"2026-10-{day}T00:00:00.000Z", "plan": p, "count": 1234}
        for day in (13, 14)
        for p in "ab"
    ]
    chart = asked(group_by_time="day", group_by=["plan"], computations=[COUNT], chart={"type": kind})
    drawings = draw(kind, to_plot(chart.chart, chart.query, rows, NOW), chart.query, "ms")  # type: ignore[arg-type]
    assert [layout for layout, _ in drawings] == [layout.name for layout in LAYOUTS]
    for _, svg in drawings:
        root = ElementTree.fromstring(svg)
        tags = {node.tag.rpartition("}")[2] for node in root.iter()}
        assert tags <= {"svg", "g", "path", "rect", "circle", "text", "title"}, tags
        assert not [
            node.attrib for node in root.iter() if {"style", "id", "href", "onclick"} & node.attrib.keys()
        ]
        assert "13 Oct 2026, a: 1,234 ms" in {node.text for node in root.iter() if node.tag.endswith("title")}


@pytest.mark.parametrize("kind", ["line", "area"])
def test_a_point_without_neighbours_is_seen_however_narrow_the_page(kind: str) -> None:
    hours = (1, 5, 6, 7, 20)
    rows = [{"event_time": f"2026-10-13T{hour:02}:00:00.000Z", "avg_n": hour} for hour in hours]
    average = {"function": "avg", "field_name": "n"}
    chart = asked(group_by_time="hour", computations=[average], chart={"type": kind})
    drawings = draw(kind, to_plot(chart.chart, chart.query, rows, NOW), chart.query, "")  # type: ignore[arg-type]
    for layout, svg in drawings:
        nodes = [*ElementTree.fromstring(svg).iter()]
        assert sum(node.tag.endswith("circle") for node in nodes) == 2, layout
        said = {str(node.text) for node in nodes if node.tag.endswith("title")}
        assert {text for text in said if "2026" in text} == {"13 Oct 2026 01:00: 1", "13 Oct 2026 20:00: 20"}


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 2**200, 5e-324, -1, 0, None])
@pytest.mark.parametrize("kind", ["line", "area", "bar", "pie", "number"])
def test_extreme_numbers_are_drawn(kind: str, value: float | None) -> None:
    body: dict[str, Any] = {"computations": [{"function": "sum", "field_name": "n"}], "chart": {"type": kind}}
    if kind in ("line", "area", "bar"):
        body["group_by_time"] = "day"
    if kind == "pie":
        body["group_by"] = ["plan"]
    rows = [
        {"event_time": f"2026-10-{day}T00:00:00.000Z", "plan": str(day), "sum_n": number}
        for day, number in ((12, value), (13, 1), (14, -value if value is not None else None))
    ]
    text = page(rows[:1] if kind == "number" else rows, **body)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*</style>", "", text, flags=re.S))


@pytest.mark.parametrize("near", [1e-15, 1e-12, 1e-9, 1e-6, 2e-6, 1e-4])
@pytest.mark.parametrize("kind", ["line", "area", "bar"])
def test_numbers_that_hardly_differ_are_drawn(kind: str, near: float) -> None:
    """Averages of one price: whoever draws by adding steps that small would never come to the end."""
    body: dict[str, Any] = {"computations": [{"function": "avg", "field_name": "n"}], "chart": {"type": kind}}
    for value in (84.8, -0.3, 802024540629.487, 1e300):
        rows = [
            {"event_time": f"2026-10-{day}T00:00:00.000Z", "avg_n": number}
            for day, number in ((12, value), (13, value * (1 + near)), (14, value))
        ]
        assert page(rows, group_by_time="day", **body).count("<svg") == len(LAYOUTS)


def test_a_page_says_what_it_leaves_out() -> None:
    rows: list[dict[str, Any]] = [{"plan": f"p{i}", "count": i} for i in range(30)]
    for kind, words in (
        ("bar", "Only the first 30 groups are counted."),
        ("pie", "Only the first 30 groups are counted."),
        ("table", "The first 30 rows are shown; limit gives more."),
    ):
        chart = asked(group_by=["plan"], computations=[COUNT], chart={"type": kind})
        for is_cut in (True, False):
            shown = Shown(chart.chart, chart.query, rows, NOW, NOW, is_cut)
            assert (words in chart_page(shown)) is is_cut
    events = [{f"field{i}": i for i in range(20)}] * 2
    assert "8 more fields are not shown" in page(events)
    wide = [{"function": "count", "as": f"c{i}"} for i in range(12)]
    hours = [{"event_time": "2026-10-14T00:00:00.000Z"} | {f"c{i}": i for i in range(12)}]
    assert "8 of 12 computations are shown." in page(hours, group_by_time="day", computations=wide)


def test_where_there_are_events_but_no_numbers_that_is_said() -> None:
    average = {"computations": [{"function": "avg", "field_name": "n"}], "group_by_time": "day"}
    assert "No numbers in this period" in page(
        [{"event_time": "2026-10-13T00:00:00.000Z", "avg_n": None}], **average
    )
    assert "No events in this period" in page([], **average)


def test_pages_escape_and_name_the_theme() -> None:
    assert 'data-theme="dark"' in page([], computations=[COUNT], chart={"theme": "dark"})
    assert "&lt;script&gt;" in message_page("<script>", "<b>", 10)
    assert 'http-equiv="refresh" content="10"' in message_page("a", "b", 10)
    assert "refresh" not in message_page("a", "b")


def test_buckets_are_those_of_the_store(tmp_path: Path) -> None:
    """Days without a midnight, hours that come twice and zones of half an hour: both know the same buckets."""
    moments = [int(datetime.fromisoformat(one).timestamp() * 1000) for one in MOMENTS[1:-1]]
    events = [
        {"event_name": "e", "event_time": at, "time_recorded": at, "unique_req_id": f"{i:032x}", "body": "{}"}
        for i, at in enumerate(moments)
    ]
    with Engine(str(tmp_path)) as engine:
        engine.insert(events)
        for zone in ("Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata"):
            for bucket in Bucket:
                body = {
                    "time_period": {"start": "1970-01-01", "end": "2099-01-01"},
                    "group_by_time": bucket.value,
                }
                query = asked(**body, timezone=zone, computations=[COUNT]).query
                found = {moment_of(row["event_time"]) for row in engine.answer(query, Scope("p"))["data"]}
                around = (
                    5 * 3_600_000 if bucket in (Bucket.MINUTE, Bucket.FIVE_MINUTES, Bucket.HOUR) else 10**10
                )
                ours: set[int] = set()
                for moment in moments:
                    period = Period(max(0, moment - around), moment + around)
                    ours |= set(bucket_starts(period, bucket, read_zone(zone)))
                assert found <= ours, (zone, bucket, found - ours)


def test_a_week_that_began_before_1970_is_a_bucket_too() -> None:
    rows = [{"event_time": "1969-12-29T00:00:00.000Z", "count": 1}]
    january = {"start": "1970-01-01", "end": "1970-02-01"}
    drawn = plot(rows, group_by_time="week", computations=[COUNT], time_period=january)
    assert drawn.names[:2] == ("week of 29 Dec 1969", "week of 5 Jan 1970")
    assert drawn.series[0].values == (1, 0, 0, 0, 0)


cells = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=20), st.integers(), finite),
    *(
        st.just(2**200),
        st.lists(st.integers(), max_size=3),
        st.sampled_from(["", " ", "null", "(none)", "other"]),
    ),
)


@settings(deadline=None, max_examples=25)
@given(st.data(), st.sampled_from(["line", "area", "bar", "pie", "table", "number"]), st.booleans())
def test_whatever_the_rows_hold_there_is_a_page(data: st.DataObject, kind: str, two: bool) -> None:
    function = "sum" if kind == "pie" else "max"
    body: dict[str, Any] = {
        "computations": [{"function": function, "field_name": "n", "as": "most"}],
        "chart": {"type": kind},
    }
    if kind in ("line", "area"):
        body["group_by_time"] = "hour"
    if kind not in ("number",):
        body["group_by"] = ["plan", "country"] if two else ["plan"]
    hours = st.integers(0, 23).map(lambda hour: f"2026-10-14T{hour:02}:00:00.000Z")
    row = st.fixed_dictionaries({"event_time": hours, "plan": cells, "country": cells, "most": cells})
    rows = data.draw(st.lists(row, max_size=1 if kind == "number" else 12))
    text = page(rows, **body)
    assert text.count("<style>") == text.count("</html>") == 1
    assert "<script" not in text


def test_every_member_is_documented() -> None:
    documented = (ROOT / "docs" / "charts.md").read_text()
    wishes = {f.name for f in fields(TokenRequest)} - {f.name for f in fields(ChartRequest)}
    for member in {field.name for field in fields(Chart)} | wishes:
        assert f"| `{member}` |" in documented, member
