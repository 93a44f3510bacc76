"""The pictures of the report: SVG that reads on white and on dark pages and is the same for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import batch, fresh, growth, memory, post

# Mid-tones: at least 3 to 1 against white and against near-black. The text is lighter than on paper.
INK = "#7d8590"
COLOURS = ["#3b82f6", "#e8590c", "#2f9e6e", "#b05cc6", "#c99a06"]
GREY = "#8a939e"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and no font is embedded
    "svg.hashsalt": "eventbunker",  # ids that do not change from run to run
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
Points = Mapping[str, Sequence[tuple[float, float]]]


def draw(parts: Mapping[str, Any], directory: Path) -> list[Path]:
    """The pictures of the parts that were measured; those of others are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(SETTINGS):
        for name, picture in PICTURES.items():
            path = directory / f"{name}.svg"
            path.unlink(missing_ok=True)
            if name not in parts:
                continue
            figure = picture(parts[name]["figures"])
            # No date and no version in the file: they would change it without a cause.
            blank = {"Date": None, "Creator": None}
            figure.savefig(path, transparent=True, bbox_inches="tight", metadata=blank)
            # matplotlib ends lines with blanks, which checkers of whitespace dislike.
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            drawn.append(path)
    return drawn


def _post(figures: dict[str, Any]) -> Figure:
    bars = post.bars(figures)[::-1]
    figure, axes = _one(height=0.42 * len(bars) + 0.8)
    colours = {"ours": COLOURS[0], "peer": COLOURS[1], "floor": GREY, "guarded": GREY}
    drawn = axes.barh(
        [label for label, _ in bars],
        [value for _, value in bars],
        color=[colours[label.split()[0]] for label, _ in bars],
        height=0.7,
    )
    axes.bar_label(drawn, [f"{value:,.0f}" for _, value in bars], padding=4, color=INK)
    axes.set_xlabel("requests a second, one core, median of the rounds")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    return figure


def _batch(figures: dict[str, Any]) -> Figure:
    figure, axes = _one()
    axes.set_xscale("log")
    axes.set_yscale("log")
    _lines(axes, batch.lines(figures))
    axes.set_xticks(batch.SIZES, [f"{size:,}" for size in batch.SIZES])
    axes.minorticks_off()
    axes.set_xlabel("events in a batch")
    axes.set_ylabel("events a second, one core")
    return figure


def _fresh(figures: dict[str, Any]) -> Figure:
    figure, axes = _one()
    _lines(axes, fresh.lines(figures))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events a second, sustained")
    axes.set_ylabel("ms from the 200 to the query")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _memory(figures: dict[str, Any]) -> Figure:
    figure, axes = _one()
    _lines(axes, memory.lines(figures), marker="")
    axes.axhline(memory.LIMIT_MB, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("wanted: below", (0, memory.LIMIT_MB), (0, 3), textcoords="offset points", color=INK)
    axes.set_ylim(0, memory.LIMIT_MB * 1.1)
    axes.set_xlabel("requests served")
    axes.set_ylabel("MB (proportional set size)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _growth(figures: dict[str, Any]) -> Figure:
    groups = growth.bars(figures)
    figure = Figure(figsize=(8, 3.2))
    left, right = figure.subplots(1, len(groups), sharey=True)
    for axes, (title, bars) in zip((left, right), groups.items(), strict=True):
        bottoms = [0.0] * len(bars)
        for colour, part in zip(COLOURS, ("edge", "drain", "store", "redis"), strict=False):
            heights = [costs[part] for _, costs in bars]
            axes.bar(
                [label for label, _ in bars],
                heights,
                bottom=bottoms,
                color=colour,
                label=part,
                width=0.65,
            )
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_xlabel(title)
        axes.grid(axis="x", visible=False)
    left.set_ylabel("CPU µs an event")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _one(height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, height))
    return figure, figure.subplots()


def _lines(axes: Axes, series: Points, marker: str = "o") -> None:
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, marker=marker, color=colour, label=name, linewidth=1.8, markersize=4)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


PICTURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "post": _post,
    "batch": _batch,
    "fresh": _fresh,
    "memory": _memory,
    "growth": _growth,
}
