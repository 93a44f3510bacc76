"""The `chart` of a query: what picture is wanted, and whether the query can give it. Pure.

It knows the query language's result (groups, buckets, computations), no rows: those are `app.chart_data`'s.
Next reader: `app.chart_request`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.computations import Computation, Function
from app.errors import Problem
from app.fields import Kind
from app.query import Query

MAX_SERIES = 8  # colours that can be told apart; what is beyond is summed up as "other"
ADDITIVE = (Function.COUNT, Function.SUM)  # of which the parts of a whole can be added up and stacked

Type = Literal["line", "bar", "area", "pie", "table", "number"]


class Chart(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the answer of a query is drawn."""

    type: Annotated[Type, Meta(description="Without it the query decides.")] | UnsetType = UNSET
    title: Annotated[str, Meta(description="Stands above the chart.", max_length=200)] = ""
    unit: Annotated[str, Meta(description='Stands behind numbers: "ms", "€", "orders".', max_length=16)] = ""
    top: Annotated[
        int,
        Meta(description='How many groups are drawn before the rest becomes "other".', ge=1, le=MAX_SERIES),
    ] = MAX_SERIES
    theme: Annotated[
        Literal["auto", "light", "dark"],
        Meta(description="`auto` follows the reader's system, or the page around the chart."),
    ] = "auto"
    refresh_seconds: (
        Annotated[
            int,
            Meta(description="A page embedded by a token loads itself again so often.", ge=10, le=86_400),
        ]
        | UnsetType
    ) = UNSET


def chosen_type(chart: Chart, query: Query) -> Type:
    """The type that was asked for, or the one that suits the query."""
    if chart.type is not UNSET:
        return chart.type
    if not query.computations:
        return "table"
    if query.bucket is not None:
        return "line"
    return "bar" if query.group_by else "number"


def misfits(chart: Chart, query: Query) -> list[Problem]:
    """Why `query` cannot be drawn as `chart` wants it, with what to change."""
    kind = chosen_type(chart, query)
    if kind == "table":
        return []
    problems = []

    def wrong(message: str) -> None:
        problems.append(Problem("$.chart.type", f'"{kind}" {message}'))

    if not query.computations:
        wrong('draws numbers; add computations such as {"function": "count"}, or choose "table"')
    if kind in ("line", "area") and query.bucket is None:
        wrong('needs a time axis; add group_by_time, or choose "bar"')
    if kind == "bar" and query.bucket is None and not query.group_by:
        wrong('needs group_by or group_by_time; one number alone is a "number"')
    if kind == "pie" and (query.bucket is not None or not query.group_by):
        wrong("shows the parts of a whole; it needs group_by, and no group_by_time")
    if kind == "pie" and len(query.computations) > 1:
        wrong("shows one computation; leave out the others")
    if kind == "pie" and any(one.function not in ADDITIVE for one in query.computations):
        wrong('shows the parts of a whole, and only "count" and "sum" can be added up; choose "bar"')
    if kind == "number" and (query.bucket is not None or query.group_by):
        wrong("shows one row; leave out group_by and group_by_time, or choose another type")
    for index, computation in enumerate(query.computations):
        if _is_time(computation):
            message = f'"{computation.output}" is a time, and "{kind}" draws numbers; choose "table"'
            problems.append(Problem(f"$.computations[{index}]", message))
    return problems


def _is_time(computation: Computation) -> bool:
    counts = computation.function in (Function.COUNT, Function.COUNT_DISTINCT)
    return not counts and computation.field is not None and computation.field.kind is Kind.TIME
