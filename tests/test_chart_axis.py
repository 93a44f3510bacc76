"""The axis of numbers: bars use the room there is, and every end has a name. No I/O."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from app.chart_axis import Extent, lying, upright
from app.chart_data import to_plot
from app.chart_request import read_chart_query
from app.chart_svg import draw
from app.chart_text import ems
from tests.test_charts import NOW

BAR = {"time_period": "minus_7_days", "computations": [{"function": "sum", "field_name": "n"}]}
DAYS = ("2026-10-12", "2026-10-13", "2026-10-14")


def drawings(values: list[float], *, over_time: bool, **more: Any) -> list[tuple[str, ElementTree.Element]]:
    """Name and SVG of each layout: bars of `values`, one for each day or for each group."""
    axis: dict[str, Any] = {"group_by_time": "day"} if over_time else {"group_by": ["plan"]}
    body = BAR | axis | {"chart": {"type": "bar"}} | more
    chart = read_chart_query(json.dumps(body).encode(), NOW)
    rows = [
        {"event_time": f"{day}T00:00:00.000Z", "plan": day, "sum_n": value}
        for day, value in zip(DAYS, values, strict=True)
    ]
    kind = body["chart"]["type"]
    found = draw(kind, to_plot(chart.chart, chart.query, rows, NOW), chart.query, "")
    return [(name, ElementTree.fromstring(svg)) for name, svg in found]


def lengths(root: ElementTree.Element, side: str) -> list[float]:
    """Of the bars that are more than a line."""
    return [
        size for node in root.iter() if node.tag.endswith("rect") and (size := float(node.attrib[side])) > 0
    ]


@pytest.mark.parametrize("size", [1e-300, 1e-6, 0.01, 0.3, 1, 20, 1e18])
@pytest.mark.parametrize(("over_time", "side"), [(True, "height"), (False, "width")])
def test_bars_of_negative_numbers_are_as_long_as_those_of_positive_ones(
    size: float, over_time: bool, side: str
) -> None:
    values = [size, 2 * size, 3 * size]
    positive = drawings(values, over_time=over_time)
    negative = drawings([-value for value in values], over_time=over_time)
    for (layout, up), (_, down) in zip(positive, negative, strict=True):
        long, short = max(lengths(up, side)), max(lengths(down, side))
        assert short >= 0.85 * long, f"{layout}: a minus takes a little room, not more"


@pytest.mark.parametrize("over_time", [True, False])
def test_an_axis_that_ends_beyond_the_largest_float_says_where(over_time: bool) -> None:
    for layout, root in drawings([1.7e308, -1.7e308, 1], over_time=over_time):
        said = {str(node.text) for node in root.iter() if node.tag.endswith("text")}
        assert {"2e+308", "−2e+308"} <= said, layout
        assert not [text for text in said if "∞" in text]


def test_what_is_stacked_beyond_the_largest_float_has_an_axis() -> None:
    axis = upright(Extent(0, 13, 1e308, "", from_zero=True), 4)
    assert axis.labels == ["0", "5e+308", "1e+309", "1.5e+309"]


@pytest.mark.parametrize("unit", ["", "€", "kg"])
@pytest.mark.parametrize("width", [25, 60, 106])
@pytest.mark.parametrize("size", [1e-300, 1e-6, 0.003, 30, 5e6, 1e308])
def test_labels_below_an_axis_stay_apart(unit: str, width: float, size: float) -> None:
    factor = 1.0 if 1e-3 <= size <= 1e12 else size
    for low, high in ((-3.0, 0.0), (0.0, 3.0), (-1.7, 1.7)):
        shown = Extent(low * (size / factor), high * (size / factor), factor, unit, from_zero=True)
        axis = lying(shown, 13, width, 9, 2)
        assert len(axis.labels) >= 2
        first, last = axis.overhang
        step = (width - max(9, first) - max(2, last)) / 1.04 / (len(axis.labels) - 1)
        widths = [ems(label) for label in axis.labels]
        assert max(a / 2 + b / 2 for a, b in pairwise(widths)) < step, axis.labels


@pytest.mark.parametrize("over_time", [True, False])
def test_only_marks_say_something_when_they_are_pointed_at(over_time: bool) -> None:
    """Beside an axis it would be a number as pygal draws it: 3 where 0.00003 is written, a place for a name."""
    for layout, root in drawings([1e-5, 2e-5, 3e-5], over_time=over_time):
        said = [str(node.text) for node in root.iter() if node.tag.endswith("title")]
        assert said, layout
        assert not [text for text in said if not re.fullmatch(r".*2026.*: 0(\.\d+)?", text)], layout
