"""The axes: which numbers stand there, how each is called, what room that takes, and which times fit. Pure.

Next reader: `app.chart_svg`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

from app.chart_data import Plot, labels_of
from app.chart_numbers import compact_scaled, ticks
from app.chart_text import ems, short_unit
from app.query import Query

_GAP = 0.4  # ems between two labels
_BORDERS = 1.04  # pygal leaves 2 % of an axis free at either end


class Extent(msgspec.Struct, frozen=True):
    """What an axis has to show: from `low` to `high`, both divided by `factor`, in `unit`.

    `from_zero`: zero is among it, however far away.
    """

    low: float
    high: float
    factor: float
    unit: str
    from_zero: bool


class Axis(msgspec.Struct, frozen=True):
    """Round values, divided by the factor of their extent, and their labels."""

    values: list[float]
    labels: list[str]

    @property
    def ends(self) -> tuple[float, float]:
        """The first value and the last. Of bars pygal takes a 0 as their end for none, and draws up to 1, so
        that nothing is seen of small negative numbers. Instead they end at the least number that is more."""
        return self.values[0], self.values[-1] or math.ulp(0.0)

    @property
    def overhang(self) -> tuple[float, float]:
        """How far labels below an axis stand out at its beginning and at its end, in ems."""
        return ems(self.labels[0]) / 2, ems(self.labels[-1]) / 2


def extent(plot: Plot, unit: str, *, stacked: bool, from_zero: bool) -> Extent:
    """What the axis of `plot` has to show."""
    factor = factor_of(plot)
    columns = list(zip(*(one.values for one in plot.series), strict=True))
    numbers = [v / factor for column in columns for v in column if v is not None]
    if stacked:
        numbers = [sum(v / factor for v in column if v is not None) for column in columns]
    return Extent(min(numbers, default=0.0), max(numbers, default=0.0), factor, unit, from_zero)


def upright(shown: Extent, most: int) -> Axis:
    """An axis at the side, of at most `most` steps."""
    values = ticks(shown.low, shown.high, most, from_zero=shown.from_zero)
    step = values[1] - values[0]
    labels = [compact_scaled(value, shown.factor, step) + short_unit(shown.unit) for value in values]
    return Axis(values, labels)


def lying(shown: Extent, most: int, width: float, before: float, after: float) -> Axis:
    """An axis at the bottom, of at most `most` steps, and so few that no label reaches the next one.

    In ems: the drawing is `width`; of that at least `before` and `after` are not the axis's.
    """
    axis = upright(shown, most)
    while most > 1 and not _fits(axis, width, before, after):
        most -= 1
        axis = upright(shown, most)
    return axis


def times(plot: Plot, query: Query, most: int, width: float) -> list[str]:
    """What stands below each bucket; at most `most` labels, and so few that none reaches the next one.

    `width` of the axis, in ems: wide numbers at the side leave little to a narrow drawing.
    """
    labels = labels_of(plot, query, most)
    while most > 1 and not _are_apart(labels, width / len(labels)):
        most -= 1
        labels = labels_of(plot, query, most)
    return labels


def _are_apart(labels: list[str], step: float) -> bool:
    places = [place for place, label in enumerate(labels) if label]
    return all(
        (ems(labels[one]) + ems(labels[other])) / 2 + _GAP <= (other - one) * step
        for one, other in pairwise(places)
    )


def _fits(axis: Axis, width: float, before: float, after: float) -> bool:
    first, last = axis.overhang
    step = (width - max(before, first) - max(after, last)) / _BORDERS / (len(axis.labels) - 1)
    widths = [ems(label) for label in axis.labels]
    return all(one / 2 + other / 2 + _GAP <= step for one, other in pairwise(widths))


def factor_of(plot: Plot) -> float:
    """What values are divided by to be drawn: pygal multiplies them with one another, which the largest and
    the smallest floats do not survive."""
    largest = max((abs(v) for one in plot.series for v in one.values if v is not None), default=0)
    if largest == 0 or 1e-3 <= largest <= 1e12:
        return 1.0
    return 10.0 ** max(-300, math.floor(math.log10(largest)))
