"""Rows of an answer -> what a chart draws: labelled positions and series of numbers. Pure.

Positions are the buckets of time, all of them, or groups. Series beyond `chart.top`, and groups beyond
MAX_BARS, become "other" where their numbers can be added up, and are counted in a note where not.
Next reader: `app.chart_svg`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from app.chart import ADDITIVE, MAX_SERIES, Chart, chosen_type
from app.chart_numbers import full
from app.chart_time import at, axis_labels, bucket_starts, count_buckets, moment_of, nearest
from app.chart_time import name as bucket_name
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
    return shortened(text if text.strip() else f'"{text}"', MAX_NAME_CHARACTERS)


def shortened(text: str, characters: int) -> str:
    """`text` in one line of at most that many characters. Of what cannot be seen only the joiners stay, which
    scripts and emoji are written with: nothing turns the direction of what stands around it."""
    cut = text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
    return "".join(c if c.isprintable() or c in _JOINERS else " " if c.isspace() else _NOTHING for c in cut)


class _Group(msgspec.Struct):
    """A series while it is found: its values by position; `empty` where there is none. Few have many."""

    name: str
    empty: Value = None
    values: dict[int, Value] = {}

    def size(self) -> float:
        return sum(abs(value) for value in self.values.values() if value is not None)

    def series(self, positions: Iterable[int], *, is_other: bool = False) -> Series:
        return Series(self.name, tuple(self.values.get(place, self.empty) for place in positions), is_other)


def _over_time(chart: Chart, query: Query, bucket: Bucket, rows: Sequence[Row], now_ms: int) -> Plot:
    moments = [moment_of(row[TIME_OUTPUT]) for row in rows]
    most = MAX_BARS_OVER_TIME if chosen_type(chart, query) == "bar" else MAX_POINTS
    starts = _starts(query, bucket, moments, now_ms, most)
    zone = read_zone(query.timezone)
    several = len(query.computations) > 1
    found: dict[tuple[bytes, str], _Group] = {}
    for row, moment in zip(rows, moments, strict=True):
        for computation in query.computations:
            key = _key(row, query.group_by), computation.output
            if key not in found:
                outputs = [computation.output] if several or not query.group_by else []
                name = " · ".join([*_names(row, query.group_by), *outputs])
                found[key] = _Group(name, 0 if computation.function in _ZERO_IF_MISSING else None)
            value = value_of(row.get(computation.output))
            if value is not None:
                found[key].values[nearest(starts, moment)] = value
    additive = not several and all(c.function in ADDITIVE for c in query.computations)
    kept, notes = _top([*found.values()], len(starts), chart, additive=additive, ranked=bool(query.group_by))
    names = tuple(bucket_name(at(start, zone), bucket) for start in starts)
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
    groups = [
        _Group(" · ".join(_names(row, query.group_by)), None, {0: value_of(row.get(computation.output))})
        for row in rows
    ]
    kept, notes = _top(groups, 1, chart, additive=True)
    if any((one.values[0] or 0) < 0 for one in groups):
        notes = (*notes, "Negative numbers have no part of a whole and are left out.")
    return Plot((computation.output,), kept, notes=notes)


def _key(row: Row, fields: Sequence[Field]) -> bytes:
    """What tells groups apart, which their names do not: those are cut, and 1 is shown as "1"."""
    return msgspec.json.encode([row.get(field.name) for field in fields])


def _names(row: Row, fields: Sequence[Field]) -> list[str]:
    return [text_of(row.get(field.name)) for field in fields]


def _over_groups(chart: Chart, query: Query, rows: Sequence[Row]) -> Plot:
    """Of two fields and one computation, the first is the axis and the second tells series apart."""
    computations, fields = query.computations, query.group_by
    is_grid = len(fields) > 1 and len(computations) == 1
    axis, inner = (fields[:1], fields[1:]) if is_grid else (fields, ())
    names: dict[bytes, str] = {}
    found: dict[tuple[bytes, str], _Group] = {}
    for row in rows:
        names.setdefault(_key(row, axis), " · ".join(_names(row, axis)))
    places = {key: place for place, key in enumerate(names)}
    for row in rows:
        for computation in computations:
            name = " · ".join(_names(row, inner)) if is_grid else computation.output
            group = found.setdefault((_key(row, inner), computation.output), _Group(name))
            group.values[places[_key(row, axis)]] = value_of(row.get(computation.output))
    additive = all(computation.function in ADDITIVE for computation in computations)
    kept, notes = _top([*found.values()], len(names), chart, additive=additive, ranked=is_grid)
    order = list(range(len(names)))
    if is_grid and query.order_by[:1] == (Order(computations[0].output, descending=True),):
        order.sort(key=lambda place: -(total(one.values[place] for one in kept) or 0))
    shown, rest = order[:MAX_BARS], order[MAX_BARS:]
    titles = [*names.values()]
    labels = [titles[place] for place in shown]
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
    groups: Sequence[_Group], positions: int, chart: Chart, *, additive: bool, ranked: bool = True
) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """The largest, largest first, and the others as one or counted in a note. Not `ranked`: those that were
    asked for first, in their order; they have nothing to do with one another, so there is no other."""
    every = range(positions)
    if not ranked:
        notes = (
            (f"{MAX_SERIES} of {len(groups)} computations are shown.",) if len(groups) > MAX_SERIES else ()
        )
        return tuple(one.series(every) for one in groups[:MAX_SERIES]), notes
    in_order = sorted(groups, key=lambda one: (-one.size(), one.name))
    kept, rest = in_order[: chart.top], in_order[chart.top :]
    series = tuple(one.series(every) for one in kept)
    if not rest:
        return series, ()
    if not additive:
        return series, (f"The {chart.top} largest of {len(groups):,} series are shown.",)
    parts: dict[int, list[Value]] = {}
    for one in rest:
        for place, value in one.values.items():
            parts.setdefault(place, []).append(value)
    sums = {place: total(values) for place, values in parts.items()}
    other = _Group(f"{OTHER} ({len(rest):,})", rest[0].empty, sums)
    is_whole = all(sums[place] is not None or not any(values) for place, values in parts.items())
    notes = () if is_whole else ("The sum of the others is beyond the largest number and is left out.",)
    return (*series, other.series(every, is_other=True)), notes
