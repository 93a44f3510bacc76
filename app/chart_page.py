"""A chart as one self-contained HTML page: no script, nothing from elsewhere, all data escaped. Pure.

The page is put together by markupsafe: what is not Markup is escaped wherever it stands. Its policy allows
one style sheet, by its hash, and nothing else; so what might slip through would neither run nor load.
Next reader: `app.iframe`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from markupsafe import Markup

from app.chart import Chart, Type, chosen_type
from app.chart_axis import factor_of
from app.chart_data import Plot, Row, text_of, to_plot, value_of
from app.chart_numbers import compact, decimals_of, full
from app.chart_svg import draw
from app.chart_time import at, name, span
from app.query import TIME_OUTPUT, Query
from app.time_period import read_zone

MAX_TABLE_ROWS = 1000
MAX_TABLE_COLUMNS = 12
_CSS = (Path(__file__).parent / "chart.css").read_text()
_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
_PAGE = Markup(
    '<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
    "{refresh}<title>{title}</title><style>{css}</style></head><body>{body}</body></html>"
)
_NONE = "\N{EN DASH}"
_EMPTY = Markup('<div class="message"><strong>No {} in this period</strong><span>{}</span></div>')


class Shown(msgspec.Struct, frozen=True):
    """What a page shows: a checked query, its chart, and the rows that answer it, as JSON decodes them.

    `is_cut`: there may be more rows than the limit that we chose.
    """

    chart: Chart
    query: Query
    rows: Sequence[Row]
    now_ms: int
    fresh_as_of: int
    is_cut: bool = False


def chart_page(shown: Shown, refresh_seconds: int | None = None) -> str:
    """The page. Slow where there is much to draw. Errors: ApiError 400 for more than a chart can show."""
    chart, query = shown.chart, shown.query
    kind = chosen_type(chart, query)
    zone = read_zone(query.timezone)
    period = span(at(query.period.start_ms, zone), at(query.period.end_ms - 1, zone))
    if kind == "table":
        content, is_empty = _rows_table(shown)
    elif kind == "number":
        content, is_empty = _numbers(shown)
    else:
        content, is_empty = _drawing(kind, shown)
    heading = Markup("<h1><bdi>{}</bdi></h1>").format(chart.title) if chart.title else ""
    told = [period, query.timezone]
    if shown.fresh_as_of:
        told.append(f"complete up to {at(shown.fresh_as_of, zone):%Y-%m-%d %H:%M:%S}")
    if is_empty:
        missing = "numbers" if shown.rows and kind != "number" else "events"
        content = _EMPTY.format(missing, period)
    body = Markup('<header>{}<p class="period">{}</p></header>{}').format(heading, " · ".join(told), content)
    return _page(chart.title or "Chart", body, chart.theme, refresh_seconds)


def message_page(title: str, sentence: str, refresh_seconds: int | None = None) -> str:
    """A page that says why there is no chart."""
    body = Markup('<div class="message" role="alert"><strong>{}</strong><span>{}</span></div>')
    return _page(title, body.format(title, sentence), "auto", refresh_seconds)


def _page(title: str, body: Markup, theme: str, refresh_seconds: int | None) -> str:
    again = Markup('<meta http-equiv="refresh" content="{}">')
    refresh = "" if refresh_seconds is None else again.format(refresh_seconds)
    css = Markup(_CSS)  # noqa: S704 a file of ours
    return str(_PAGE.format(theme=theme, policy=POLICY, refresh=refresh, title=title, css=css, body=body))


def _drawing(kind: Type, shown: Shown) -> tuple[Markup, bool]:
    chart, query = shown.chart, shown.query
    plot = to_plot(chart, query, shown.rows, shown.now_ms)
    if plot.is_empty:
        return Markup(""), True
    drawings = Markup("").join(
        Markup(svg).replace("<svg", Markup('<svg class="{}"').format(layout), 1)  # noqa: S704 ElementTree escaped it
        for layout, svg in draw(kind, plot, query, chart.unit)
    )
    classes = "plot" if plot.moments else "plot sideways"
    described = f"{kind} chart: {chart.title}" if chart.title else f"{kind} chart"
    picture = Markup('<div class="{}" role="img" aria-label="{}">{}</div>').format(
        classes, described, drawings
    )
    if kind == "pie":
        picture = Markup('<div class="pie">{}{}</div>').format(picture, _parts(plot, chart.unit))
    elif len(plot.series) > 1:
        picture += _legend(plot)
    cut = (f"Only the first {len(shown.rows):,} groups are counted.",) if shown.is_cut else ()
    return picture + _notes((*plot.notes, *cut)) + _data_table(kind, plot, query), False


def _legend(plot: Plot) -> Markup:
    items = (
        Markup('<li class="color-{}"><bdi>{}</bdi></li>').format("other" if one.is_other else i, one.name)
        for i, one in enumerate(plot.series)
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _parts(plot: Plot, unit: str) -> Markup:
    factor = factor_of(plot)
    sizes = [max(0, one.values[0] or 0) / factor for one in plot.series]
    whole = sum(sizes) or 1  # which is no larger than a float can be
    items = (
        Markup('<li class="color-{}"><bdi>{}</bdi><b>{}</b></li>').format(
            "other" if one.is_other else i, one.name, _part(one.values[0], size / whole, unit)
        )
        for i, (one, size) in enumerate(zip(plot.series, sizes, strict=True))
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _part(value: float | None, share: float, unit: str) -> str:
    if value is None:
        return _NONE
    return f"{f'{compact(max(0, value))} {unit}'.rstrip()} · {share:.1%}"


def _notes(notes: Sequence[str]) -> Markup:
    return Markup('<p class="notes">{}</p>').format(" ".join(notes)) if notes else Markup("")


def _data_table(kind: Type, plot: Plot, query: Query) -> Markup:
    """The same numbers for whoever cannot see the drawing, or wants them exactly."""
    first = "Time" if plot.moments else " · ".join(field.name for field in query.group_by)
    columns = [first, *(one.name for one in plot.series)]
    rows = [[title, *(one.values[i] for one in plot.series)] for i, title in enumerate(plot.names)]
    if kind == "pie":
        columns, rows = [first, *plot.names], [[one.name, *one.values] for one in plot.series]
    table = _table(columns, rows)
    return Markup("<details><summary>Show the numbers</summary>{}</details>").format(table)


def _rows_table(shown: Shown) -> tuple[Markup, bool]:
    query, rows = shown.query, shown.rows
    if not rows:
        return Markup(""), True
    every = _columns(query, rows)
    columns = every[:MAX_TABLE_COLUMNS]
    zone = read_zone(query.timezone)

    def cell(row: Row, column: str) -> object:
        value = row.get(column)
        if column == TIME_OUTPUT and isinstance(value, str):
            moment = datetime.fromisoformat(value).astimezone(zone)
            return name(moment, query.bucket) if query.bucket else f"{moment:%Y-%m-%d %H:%M:%S}"
        return value

    table = _table(columns, ([cell(row, c) for c in columns] for row in rows[:MAX_TABLE_ROWS]))
    notes = []
    if len(rows) > MAX_TABLE_ROWS:
        notes.append(f"The first {MAX_TABLE_ROWS:,} of {len(rows):,} rows are shown.")
    elif shown.is_cut:
        notes.append(f"The first {len(rows):,} rows are shown; limit gives more.")
    if len(every) > len(columns):
        notes.append(f"{len(every) - len(columns)} more fields are not shown; group_by chooses.")
    return table + _notes(notes), False


def _columns(query: Query, rows: Iterable[Row]) -> list[str]:
    """The output columns; of raw events what every list of events begins with, then what clients sent."""
    if not query.is_raw:
        groups = [TIME_OUTPUT] if query.bucket else []
        groups += [field.name for field in query.group_by]
        return groups + [computation.output for computation in query.computations]
    seen = {column: None for row in rows for column, value in row.items() if value is not None}
    first = [c for c in (TIME_OUTPUT, "event_name", "customer_identifier") if c in seen]
    return first + [c for c in seen if c not in first and c not in ("unique_req_id", "time_recorded")]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A column of numbers is set under one another, with as many decimals as the finest of them."""
    body = list(rows)
    cells = [_column([row[i] for row in body]) for i in range(len(columns))]
    head = Markup("").join(
        Markup('<th scope="col"{}><bdi>{}</bdi></th>').format(kind, text_of(column))
        for column, (kind, _) in zip(columns, cells, strict=True)
    )
    lines = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup("<td{}><bdi>{}</bdi></td>").format(kind, texts[i]) for kind, texts in cells
            )
        )
        for i in range(len(body))
    )
    table = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, lines)
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="Table">{}</div>').format(table)


def _column(values: Sequence[object]) -> tuple[Markup, list[str]]:
    """The class of a column's cells, and their texts."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers or len(numbers) + values.count(None) < len(values):
        return Markup(""), [_NONE if value is None else text_of(value) for value in values]
    decimals = max(decimals_of(number) for number in numbers)
    texts = [full(v, decimals) if isinstance(v, int | float) else _NONE for v in values]
    return Markup(' class="number"'), texts


def _numbers(shown: Shown) -> tuple[Markup, bool]:
    row = shown.rows[0] if shown.rows else {}
    outputs = [computation.output for computation in shown.query.computations]
    values = [value_of(row.get(output)) for output in outputs]
    if all(value is None for value in values):
        return Markup(""), True
    alone = len(outputs) == 1 and shown.chart.title
    cards = Markup("").join(
        Markup("<div>{}<dd>{}{}</dd>{}</div>").format(
            "" if alone else Markup("<dt><bdi>{}</bdi></dt>").format(text_of(output)),
            _NONE if value is None else compact(value),
            Markup("<small> {}</small>").format(shown.chart.unit) if shown.chart.unit else "",
            _exactly(value),
        )
        for output, value in zip(outputs, values, strict=True)
    )
    return Markup('<dl class="numbers">{}</dl>').format(cards), False


def _exactly(value: float | int | None) -> Markup:
    if value is None or compact(value) == full(value):
        return Markup("")
    return Markup("<p>{}</p>").format(full(value))
