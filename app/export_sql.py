"""An Export -> the SELECTs that read it. Pure.

An export is read a page at a time, in the order of the table's sort key: by event name, then by time. The
engine then reads each row once, however many pages there are, and holds a page, not the whole: a page begins
behind the last row of the one before, never at an OFFSET. `recorded_up_to` bounds every statement alike, so
that what arrives meanwhile is in none of them.
Next reader: `app.export_pages`, which asks them in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from app.export_request import Export
from app.fields import Field, Kind
from app.scope import Scope
from app.sql import RAW_COLUMNS
from app.sql_fields import column, elements, typed
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters
from app.time_period import Period

TEXTS = "Array(Nullable(String))"
NAMES = tuple(field.name for field in RAW_COLUMNS)  # of the columns of a page; the body is the last one
# Where many events have the same name and time, the engine sorts them by the rest of the order. It then
# fetches the wide columns of those alone that are on the page.
PAGE_SETTINGS: dict[str, str | int | float] = {"query_plan_max_limit_for_lazy_materialization": 1_000_000}


class Position(msgspec.Struct, frozen=True):
    """The last row of a page; moments are in Unix milliseconds."""

    event_name: str
    event_time: int
    time_recorded: int
    unique_req_id: str


class Statement(msgspec.Struct, frozen=True):
    """A SELECT and the values that it names."""

    sql: str
    parameters: dict[str, Parameter]


def page(scope: Scope, export: Export, recorded_up_to: int, after: Position | None, limit: int) -> Statement:
    """The next `limit` events behind `after`: the columns NAMES and the body."""
    parameters = Parameters()
    conditions = _matching(scope, export, export.period, recorded_up_to, parameters)
    if after is not None:
        conditions += f" AND {_behind(after, parameters)}"
    selected = ", ".join([*(_shown(field) for field in RAW_COLUMNS), "body"])
    order = "event_name, event_time, time_recorded, unique_req_id"
    parts = ("SELECT", selected, "FROM events WHERE", conditions, "ORDER BY", order)
    return _statement((*parts, "LIMIT", parameters.add(limit, "UInt64")), scope, export, parameters)


def count(scope: Scope, export: Export, period: Period, recorded_up_to: int) -> Statement:
    """How many events of `period` it has."""
    parameters = Parameters()
    conditions = _matching(scope, export, period, recorded_up_to, parameters)
    return _statement(("SELECT count() FROM events WHERE", conditions), scope, export, parameters)


def types(scope: Scope, export: Export, period: Period, recorded_up_to: int) -> Statement:
    """Which custom fields events of `period` have, and of which of the engine's types: pairs of both."""
    parameters = Parameters()
    conditions = _matching(scope, export, period, recorded_up_to, parameters)
    found = ("(SELECT distinctJSONPathsAndTypes(fields) AS found FROM events WHERE", conditions, ")")
    # Pairs, since beside each of thousands of keys the engine would keep a copy of the whole map.
    pairs = "arrayJoin(CAST(found, 'Array(Tuple(String, Array(String)))'))"
    parts = ("SELECT pair.1, pair.2 FROM (SELECT", pairs, "AS pair FROM", *found, ") ORDER BY 1")
    return _statement(parts, scope, export, parameters)


def full_arrays(
    scope: Scope, export: Export, period: Period, recorded_up_to: int, fields: Sequence[Field]
) -> Statement:
    """How many events have text in an array: a column for each of `fields`. An empty array is stored as one
    of strings, whatever the others of its field hold."""
    parameters = Parameters()
    conditions = _matching(scope, export, period, recorded_up_to, parameters)
    counts = (f"countIf(notEmpty({typed(field, TEXTS)}))" for field in fields)
    return _statement(
        ("SELECT", ", ".join(counts), "FROM events WHERE", conditions), scope, export, parameters
    )


def _statement(parts: Iterable[str], scope: Scope, export: Export, parameters: Parameters) -> Statement:
    return Statement(elements(asked(scope, export.filters)) + " ".join(parts), parameters.values)


def _matching(
    scope: Scope, export: Export, period: Period, recorded_up_to: int, parameters: Parameters
) -> str:
    conditions = where(scope, period, export.filters, parameters)
    return f"{conditions} AND time_recorded <= {_moment(recorded_up_to, parameters)}"


def _behind(after: Position, parameters: Parameters) -> str:
    """Written so that the engine finds the place by the sort key: it takes tuples apart only in part."""
    name = parameters.add(after.event_name, "String")
    time = _moment(after.event_time, parameters)
    recorded = _moment(after.time_recorded, parameters)
    identity = f"unhex({parameters.add(after.unique_req_id, 'String')})"
    tied = f"time_recorded > {recorded} OR (time_recorded = {recorded} AND unique_req_id > {identity})"
    later = f"event_time >= {time} AND (event_time > {time} OR {tied})"
    return f"event_name >= {name} AND (event_name > {name} OR ({later}))"


def _moment(milliseconds: int, parameters: Parameters) -> str:
    return f"fromUnixTimestamp64Milli({parameters.add(milliseconds, 'Int64')}, 'UTC')"


def _shown(field: Field) -> str:
    """As a raw query shows it: `event_time` as text, `time_recorded` as a number."""
    if field.kind is Kind.TIME and field.name == "event_time":
        return "concat(replaceOne(toString(event_time), ' ', 'T'), 'Z')"
    if field.kind is Kind.TIME:
        return f"toUnixTimestamp64Milli({field.name})"
    return column(field)
