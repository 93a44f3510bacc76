"""A Plot -> inline SVG, drawn by pygal: a drawing for each width of the page. Pure, and slow (20 to 500 ms).

What pygal draws is used as it is, but for what a page with a strict policy cannot have: its styles and
scripts are taken out, and `chart.css` dresses the classes; what a mark says when it is pointed at is a
`<title>`, which browsers show by themselves. pygal is imported with the first chart: an edge that draws none
does not carry it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import msgspec

from app.chart_axis import Axis, Extent, extent, factor_of, lying, times, upright
from app.chart_data import Plot, Series
from app.chart_numbers import compact_scaled, full
from app.chart_text import ems, fitting, guessed, missing, short_unit

if TYPE_CHECKING:
    from app.chart import Type
    from app.query import Query

UNITS_A_DOT, DOT = 16, 3  # closer than this, dots hide their line; the size of one that has none
MARGIN, SPACING = 8, 6  # around a drawing, and between an axis and its labels
AFTER = 2  # behind the end of an axis, for half of its last label, in sizes of the font
HOLE, HOLE_SMALL = 4.5, 6.4  # ems of text that a pie's hole holds, bold, in either size of `chart.css`
_DROPPED = ("defs", "script", "style", "desc")
_FRACTION = re.compile(r"(\d+\.\d)\d+")


class Layout(msgspec.Struct, frozen=True):
    """A drawing for pages of a certain width; `chart.css` shows the one that fits.

    Sizes are in the drawing's own units, which are 0.8 to 1.4 pixels. `characters`: of a group's name.
    """

    name: str
    width: int
    height: int
    font: int
    characters: int
    x_labels: int
    y_labels: int


LAYOUTS = (
    Layout("narrow", 300, 210, 12, 13, 4, 4),
    Layout("medium", 600, 270, 15, 20, 6, 5),
    Layout("wide", 1100, 430, 15, 30, 9, 6),
    Layout("wide-low", 1100, 240, 16, 30, 9, 4),
    Layout("widest", 1600, 560, 15, 40, 14, 7),
    Layout("widest-low", 1600, 290, 17, 40, 14, 4),
)
_ROUND = Layout("round", 300, 300, 15, 0, 0, 0)


def draw(kind: Type, plot: Plot, query: Query, unit: str) -> list[tuple[str, str]]:
    """Name of the layout and SVG, for each layout."""
    if kind == "pie":
        return [(_ROUND.name, _pie(plot, unit))]
    layouts = [one for one in LAYOUTS if plot.moments or not one.name.endswith("-low")]
    return [(layout.name, _axes(kind, plot, query, unit, layout)) for layout in layouts]


def _pygal() -> Any:
    import pygal  # noqa: PLC0415
    from pygal.etree import etree  # noqa: PLC0415

    # It finds plugins of its own by a hook in everybody's imports, of a kind that Python no longer knows.
    sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != pygal.__name__]
    etree.to_etree()  # also where lxml is installed: `_clean` knows the standard library's tree
    return pygal


def _axes(kind: Type, plot: Plot, query: Query, unit: str, layout: Layout) -> str:
    pygal = _pygal()
    is_sideways = not plot.moments
    stacked = plot.stacks and len(plot.series) > 1
    form = {
        ("line", False): pygal.Line,
        ("area", False): pygal.Line,
        ("area", True): pygal.StackedLine,
        ("bar", False): pygal.HorizontalBar if is_sideways else pygal.Bar,
        ("bar", True): pygal.HorizontalStackedBar if is_sideways else pygal.StackedBar,
    }[kind, stacked and kind != "line"]
    shown = extent(plot, unit, stacked=stacked and kind != "line", from_zero=kind != "line")
    has_marks = kind == "bar" or len(plot.names) * UNITS_A_DOT <= layout.width
    chart = form(
        **_look(layout),
        fill=kind == "area",
        show_dots=kind != "bar" and has_marks,
        dots_size=max(2.5, layout.font / 5),
    )
    if is_sideways:
        plot = _upside_down(plot)  # pygal begins at the bottom
        chart.config(height=_height(plot, layout, stacked=stacked))
        chart.x_labels = names = [fitting(name, layout.characters * 0.6) for name in plot.names]
        axis, margins = _below(shown, names, layout)
    else:
        axis = upright(shown, layout.y_labels)
        margins = {"margin_left": max(MARGIN, layout.font * missing(axis.labels))}
        left = margins["margin_left"] + SPACING + layout.font * guessed(axis.labels)
        chart.x_labels = times(plot, query, layout.x_labels, (layout.width - left) / layout.font - AFTER)
        chart.x_labels_major = [label for label in chart.x_labels if label]
        chart.config(show_minor_x_labels=False)
    chart.config(
        y_labels=[
            {"value": value, "label": label} for value, label in zip(axis.values, axis.labels, strict=True)
        ],
        range=axis.ends,
        **margins,
    )
    for one in plot.series:
        values = [None if value is None else value / shown.factor for value in one.values]
        if has_marks:
            chart.add(one.name, _marks(one, values, plot, unit), rounded_bars=2)
        elif lone := _lone(values):
            # A line through one point has no length: nothing would be seen of it.
            marks = _marks(one, values, plot, unit)
            dots = [
                mark and {**mark, "node": {"r": DOT if at in lone else 0}} for at, mark in enumerate(marks)
            ]
            chart.add(one.name, dots, show_dots=True)
        else:
            chart.add(one.name, values)
    return _clean(chart.render_tree(), plot)


def _below(shown: Extent, names: list[str], layout: Layout) -> tuple[Axis, dict[str, float]]:
    """The axis under lying bars, and the margins that it and the names of the bars need."""
    font = layout.font
    beside = MARGIN + font * max(0.0, missing(names))  # beyond what pygal leaves for names
    left_by_pygal = SPACING + font * guessed(names)
    axis = lying(shown, layout.x_labels - 1, layout.width / font, (beside + left_by_pygal) / font, AFTER)
    first, last = axis.overhang
    left, right = max(beside, font * first - left_by_pygal), font * max(AFTER, last)
    return axis, {"margin_left": left, "margin_right": right}


def _pie(plot: Plot, unit: str) -> str:
    chart = _pygal().Pie(**_look(_ROUND) | {"margin": 4, "margin_right": 4}, inner_radius=0.62)
    factor = factor_of(plot)
    whole = 0.0
    for one in plot.series:
        value = one.values[0] or 0
        told = f"{one.name}: {_shown(value, unit)}"
        part = max(0.0, value) / factor
        whole += part
        chart.add(one.name, [{"value": part, "tooltip": told}])
    root = chart.render_tree()
    number = compact_scaled(whole, factor)
    said = number + short_unit(unit)
    if ems(said) > HOLE_SMALL:
        said = number  # each part beside the pie has its unit
    size = "total" if ems(said) <= HOLE else "total small"
    ElementTree.SubElement(root, "text", {"x": "150", "y": "150", "class": size}).text = said
    return _clean(root, plot)


def _look(layout: Layout) -> dict[str, Any]:
    """Fonts decide the margins; what colours there are is `chart.css`'s business."""
    style = _pygal().style.Style(label_font_size=layout.font, major_label_font_size=layout.font)
    return {
        "width": layout.width,
        "height": layout.height,
        "style": style,
        "css": [],
        "js": [],
        "margin": MARGIN,
        "margin_right": AFTER * layout.font,
        "spacing": SPACING,
        "show_legend": False,
        "truncate_label": -1,
        "no_prefix": True,
    }


def _upside_down(plot: Plot) -> Plot:
    turned = tuple(msgspec.structs.replace(one, values=one.values[::-1]) for one in plot.series)
    return msgspec.structs.replace(plot, names=plot.names[::-1], series=turned)


def _height(plot: Plot, layout: Layout, *, stacked: bool) -> int:
    """Bars of groups are as thick as a line of text, so the drawing is as high as they are many."""
    lines = len(plot.names) * (1 if stacked else max(1, len(plot.series) * 0.6))
    return int(max(layout.font * 10, lines * layout.font * 2.1 + layout.font * 4))


def _marks(one: Series, values: list[float | None], plot: Plot, unit: str) -> list[dict[str, Any] | None]:
    """Values with what a browser shows of each when it is pointed at."""
    of = f", {one.name}" if len(plot.series) > 1 else ""
    return [
        None if value is None else {"value": value, "tooltip": f"{name}{of}: {_shown(exact or 0, unit)}"}
        for name, value, exact in zip(plot.names, values, one.values, strict=True)
    ]


def _lone(values: Sequence[float | None]) -> set[int]:
    """The places of values between two that are missing."""
    around = [None, *values, None]
    return {
        at
        for at, value in enumerate(values)
        if value is not None and around[at] is None and around[at + 2] is None
    }


def _shown(value: float, unit: str) -> str:
    return f"{full(value)} {unit}".rstrip()


def _clean(root: ElementTree.Element, plot: Plot) -> str:
    """Without styles, scripts, comments and what only a script would show; `chart.css` does the colours."""
    for parent in list(root.iter()):
        # Of an axis pygal would say its values as they are drawn, and the places of names.
        dropped = (*_DROPPED, "title") if parent is root or "guides" in parent.get("class", "") else _DROPPED
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag in dropped or _is_empty(child):
                parent.remove(child)
        for name in ("style", "id"):
            parent.attrib.pop(name, None)
        for name, value in parent.attrib.items():
            if "." in value:
                parent.set(name, _FRACTION.sub(r"\1", value))
    for group in root.iter("g"):
        for word in group.get("class", "").split():
            if word.startswith("serie-"):
                index = int(word.removeprefix("serie-"))
                group.set("class", f"series color-{'other' if plot.series[index].is_other else index}")
    root.set("aria-hidden", "true")
    root.attrib.pop("class", None)
    return ElementTree.tostring(root, encoding="unicode")


def _is_empty(node: ElementTree.Element) -> bool:
    words = node.get("class", "").split()
    circle = node.find("circle")
    if circle is not None and circle.get("r") == "0":
        return True
    return any(word in words for word in ("tooltip-overlay", "titles", "background", "text-overlay"))
