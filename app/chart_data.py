"""Rows of an answer -> what a chart draws: labelled positions and series of numbers. Pure.

Positions are the buckets of time, all of them, or groups. Series beyond `chart.top`, and groups beyond
MAX_BARS, become "other" where their numbers can be added up, and are counted in a note where not.
Next reader: `app.chart_svg`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from app.chart import ADDITIVE, Chart, chosen_type
from app.chart_numbers import full
from app.chart_time import at, axis_labels, bucket_starts, count_buckets, moment_of, name, nearest
from app.computations import Function
from app.errors import Problem, invalid_body
from app.fields import Field
from app.query import TIME_OUTPUT, Order, Query
from app.query_request import Bucket
from app.time_period import Period, read_zone

MAX_POINTS = 1500  # buckets on one axis; on a wide screen that is about one for each pixel
MAX_BARS_OVER_TIME = 300  # of which each is then five pixels wide
MAX_BARS = 20  # groups on one axis
MAX_NAME_CHARACTERS = 120
OTHER = "other"
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_NOTHING = "\N{REPLACEMENT CHARACTER}"
_ZERO_IF_MISSING = (Function.COUNT, Function.COUNT_DISTINCT, Function.SUM)

Row = Mapping[str, object]
Value = float | int | None


class Series(msgspec.Struct, frozen=True):
    """One number for each position, None where there is none."""

    name: str
    values: tuple[Value, ...]
    is_other: bool = False


class Plot(msgspec.Struct, frozen=True):
    """`names`: each position in full. `moments`: their starts in Unix ms, () where they are groups.

    `stacks`: can the series be added up, so that their sum is worth drawing? `notes` say what is not shown.
    """

    names: tuple[str, ...]
    series: tuple[Series, ...]
    moments: tuple[int, ...] = ()
    stacks: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not any(value is not None for one in self.series for value in one.values)


def to_plot(chart: Chart, query: Query, rows: Sequence[Row], now_ms: int) -> Plot:
    """What `rows` look like as a line, bar, area or pie chart. Errors: ApiError 400 for too many points."""
    if query.bucket is not None:
        return _over_time(chart, query, query.bucket, rows, now_ms)
    if chosen_type(chart, query) == "pie":
        return _parts(chart, query, rows)
    return _over_groups(chart, query, rows)


def labels_of(plot: Plot, query: Query, most: int) -> list[str]:
    """What stands at the axis of time under each position; "" for most of them."""
    zone = read_zone(query.timezone)
    moments = [at(moment, zone) for moment in plot.moments]
    return axis_labels(moments, query.bucket, most) if query.bucket is not None else []


def value_of(cell: object) -> Value:
    """The number in a cell; None for whatever is none, and for what no float can hold."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    try:
        return cell if math.isfinite(float(cell)) else None
    except OverflowError:
        return None


def text_of(cell: object) -> str:
    """A cell as a person reads it, bounded."""
    if cell is None:
        return "(none)"
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int | float):
        return full(cell)
    text = cell if isinstance(cell, str) else msgspec.json.encode(cell).decode()
    return shortened(text, MAX_NAME_CHARACTERS) if text.strip() else '""'


def shortened(text: str, characters: int) -> str:
    """`text` in one line of at most that many characters. Of what cannot be seen only the joiners stay, which
    scripts and emoji are written with: nothing turns the direction of what stands around it."""
    cut = text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
    return "".join(c if c.isprintable() or c in _JOINERS else " " if c.isspace() else _NOTHING for c in cut)


def _over_time(chart: Chart, query: Query, bucket: Bucket, rows: Sequence[Row], now_ms: int) -> Plot:
    moments = [moment_of(row[TIME_OUTPUT]) for row in rows]
    most = MAX_BARS_OVER_TIME if chosen_type(chart, query) == "bar" else MAX_POINTS
    starts = _starts(query, bucket, moments, now_ms, most)
    zone = read_zone(query.timezone)
    several = len(query.computations) > 1
    found: dict[str, list[Value]] = {}
    for row, moment in zip(rows, moments, strict=True):
        position = nearest(starts, moment)
        group = _group(row, query.group_by)
        for computation in query.computations:
            key = " · ".join(filter(None, (group, computation.output if several or not group else "")))
            empty = 0 if computation.function in _ZERO_IF_MISSING else None
            values = found.setdefault(key, [empty] * len(starts))
            value = value_of(row.get(computation.output))
            values[position] = empty if value is None else value
    series = [Series(key, tuple(values)) for key, values in found.items()]
    additive = not several and all(c.function in ADDITIVE for c in query.computations)
    kept, notes = _top(series, chart.top, additive=additive) if query.group_by else (tuple(series), ())
    names = tuple(name(at(start, zone), bucket) for start in starts)
    return Plot(names, kept, tuple(starts), additive and _all_positive(kept), notes)


def _starts(query: Query, bucket: Bucket, moments: Sequence[int], now_ms: int, most: int) -> list[int]:
    """All buckets of the period up to now; where those are too many, from the first event's to the last's."""
    if not moments:
        return []
    end_ms = max(min(query.period.end_ms, now_ms + 1), max(moments) + 1)
    period = Period(query.period.start_ms, end_ms)
    if count_buckets(period, bucket) > most:
        period = Period(max(min(moments), period.start_ms), max(moments) + 1)
    if (count := count_buckets(period, bucket)) > most:
        fitting = [(one.value, n) for one in Bucket if (n := count_buckets(period, one)) <= most]
        advice = f'; "{fitting[0][0]}" gives about {fitting[0][1]:,}' if fitting else ""
        message = f"gives {count:,} points, and this chart has at most {most:,}{advice}"
        raise invalid_body([Problem("$.group_by_time", message)])
    return list(bucket_starts(period, bucket, read_zone(query.timezone)))


def _parts(chart: Chart, query: Query, rows: Sequence[Row]) -> Plot:
    """Of a pie: one series of one number for each group."""
    computation = query.computations[0]
    series = [Series(_group(row, query.group_by), (value_of(row.get(computation.output)),)) for row in rows]
    kept, notes = _top(series, chart.top, additive=computation.function in ADDITIVE)
    if any((one.values[0] or 0) < 0 for one in series):
        notes = (*notes, "Negative numbers have no part of a whole and are left out.")
    return Plot((computation.output,), kept, notes=notes)


def _group(row: Row, fields: Sequence[Field]) -> str:
    return " · ".join(text_of(row.get(field.name)) for field in fields)


def _over_groups(chart: Chart, query: Query, rows: Sequence[Row]) -> Plot:
    """Of two fields and one computation, the first is the axis and the second tells series apart."""
    computations, fields = query.computations, query.group_by
    is_grid = len(fields) > 1 and len(computations) == 1
    axis, inner = (fields[:1], fields[1:]) if is_grid else (fields, ())
    names = list(dict.fromkeys(_group(row, axis) for row in rows))
    places = {name: place for place, name in enumerate(names)}
    found: dict[str, list[Value]] = {}
    for row in rows:
        for computation in computations:
            key = _group(row, inner) if is_grid else computation.output
            numbers = found.setdefault(key, [None] * len(names))
            numbers[places[_group(row, axis)]] = value_of(row.get(computation.output))
    additive = all(computation.function in ADDITIVE for computation in computations)
    series = [Series(key, tuple(numbers)) for key, numbers in found.items()]
    kept, notes = _top(series, chart.top, additive=additive) if is_grid else (tuple(series[: chart.top]), ())
    order = list(range(len(names)))
    if is_grid and query.order_by[:1] == (Order(computations[0].output, descending=True),):
        order.sort(key=lambda place: -(total(one.values[place] for one in kept) or 0))
    shown, rest = order[:MAX_BARS], order[MAX_BARS:]
    labels = [names[place] for place in shown]
    kept = tuple(Series(one.name, _placed(one.values, shown, rest * additive), one.is_other) for one in kept)
    if rest and additive:
        labels.append(f"{OTHER} ({len(rest):,})")
    elif rest:
        notes = (*notes, f"{len(shown)} of {len(names):,} groups are shown.")
    return Plot(tuple(labels), kept, stacks=is_grid and additive and _all_positive(kept), notes=notes)


def _placed(values: Sequence[Value], shown: Sequence[int], rest: Sequence[int]) -> tuple[Value, ...]:
    """The values at the places that are shown, and behind them the sum of the rest, if there is one."""
    placed = tuple(values[place] for place in shown)
    return (*placed, total(values[place] for place in rest)) if rest else placed


def _all_positive(series: Sequence[Series]) -> bool:
    return all((value or 0) >= 0 for one in series for value in one.values)


def total(values: Iterable[Value]) -> Value:
    """The sum of those that are numbers, None without any or beyond the range of floats."""
    numbers = [value for value in values if value is not None]
    return value_of(sum(numbers)) if numbers else None


def _top(
    series: Sequence[Series], most: int, *, additive: bool
) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """The largest series, largest first; the others as one, or counted in a note."""
    ranked = sorted(series, key=lambda one: (-sum(abs(v) for v in one.values if v is not None), one.name))
    kept, rest = ranked[:most], ranked[most:]
    if not rest:
        return tuple(kept), ()
    if not additive:
        return tuple(kept), (f"The {most} largest of {len(ranked):,} series are shown.",)
    summed = tuple(total(values) for values in zip(*(one.values for one in rest), strict=True))
    return (*kept, Series(f"{OTHER} ({len(rest):,})", summed, is_other=True)), ()
