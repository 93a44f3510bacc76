"""Retention -> one SELECT. Pure; what is counted is written down in `app.retention`.

First a row for each customer and period: the earliest event of `first` and the latest of `returning` in it.
Of these a row for each customer: the cohort, and in which periods after there was a later event.
Next reader: `app.analyse`, which runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.fields import Field
from app.retention import Length, Retention
from app.scope import Scope
from app.sql_fields import elements, in_order, is_null, key, text_of_key
from app.sql_filters import Parameter, Parameters, asked, holds, where
from app.time_period import Period

# As `app.retention.index_of`.
_INDEXES: dict[Length, str] = {
    "day": "toInt32({day})",
    "week": "intDiv(toInt32({day}) + 3, 7)",
    "month": "toInt32(toYear({day})) * 12 + toMonth({day}) - 1",
}
_ORDER = "(toUnixTimestamp64Milli(event_time), toUnixTimestamp64Milli(time_recorded), unique_req_id)"


def to_statement(retention: Retention, scope: Scope) -> tuple[str, dict[str, Parameter]]:
    """Rows: is it of everybody?, JSON text of the group's value, cohort, size, (offsets, customers)."""
    parameters = Parameters()
    customers = _customers(retention, _periods(retention, scope, parameters), parameters)
    counted = "cohort, count() AS size, sumMap(offsets, arrayMap(o -> toUInt64(1), offsets)) AS returned"
    if not retention.group_by:
        select = f"SELECT 1 AS is_total, NULL AS v, {counted} FROM ({customers}) GROUP BY cohort"
        return f"{select} ORDER BY cohort", parameters.values
    select = f"SELECT grouping(v) AS is_total, v, {counted} FROM ({customers})"
    cohorts = f"{select} GROUP BY GROUPING SETS ((v, cohort), (cohort))"
    sized = f"SELECT *, sum(size) OVER (PARTITION BY is_total, v) AS whole FROM ({cohorts})"
    order = f"is_total DESC, whole DESC, {in_order('v', False)}"
    ranked = f"SELECT *, dense_rank() OVER (ORDER BY {order}) AS rank FROM ({sized})"
    limit = parameters.add(retention.limit + 1, "UInt64")
    columns = "is_total, v, cohort, size, returned"
    return f"SELECT {columns} FROM ({ranked}) WHERE rank <= {limit} ORDER BY rank, cohort", parameters.values


def _periods(retention: Retention, scope: Scope, parameters: Parameters) -> str:
    """A row for each customer `c` and day, week or month `p`: `began`, the first of `firsts` events that begin
    it, with its group's value; `back`, the last of `backs` returns."""
    conditions = where(scope, retention.followed, retention.filters, parameters)
    end = parameters.add(retention.period.end_ms, "Int64")
    first = f"({holds(retention.first, parameters)} AND event_time < fromUnixTimestamp64Milli({end}, 'UTC'))"
    returning = holds(retention.returning, parameters)
    zone = parameters.add(retention.timezone, "String")
    day = f"toDate32(toTimeZone(event_time, {zone}))"
    columns = [
        f"{key(retention.by)} AS c",
        f"{_INDEXES[retention.length].format(day=day)} AS p",
        f"{_ORDER} AS o",
        f"if({first}, 1, 0) AS f",
        f"if({returning}, 1, 0) AS b",
    ]
    value = "CAST(NULL AS Nullable(String))"
    for field in retention.group_by:
        columns.append(f"{key(field)} AS k")
        value = f"if(f, {text_of_key(field, 'k')}, NULL)"
    fields = [retention.by, *retention.group_by, *_asked(retention, scope)]
    events = f"{elements(fields)}SELECT {', '.join(columns)}, {value} AS v FROM events WHERE {conditions}"
    events += f" AND NOT {is_null(retention.by)} AND ({first} OR {returning})"
    if retention.new_only:
        earlier = Period(0, retention.period.start_ms)
        known = where(scope, earlier, retention.filters, parameters)
        known += f" AND NOT {is_null(retention.by)} AND {holds(retention.first, parameters)}"
        select = f"{elements(fields)}SELECT {key(retention.by)} FROM events WHERE {known}"
        events += f" AND {key(retention.by)} NOT IN ({select})"
    # In a tuple, since aggregates pass over NULL.
    began = "countIf(f) AS firsts, minIf(o, f) AS began, argMinIf(tuple(v), o, f) AS value"
    return f"SELECT c, p, {began}, countIf(b) AS backs, maxIf(o, b) AS back FROM ({events}) GROUP BY c, p"


def _customers(retention: Retention, periods: str, parameters: Parameters) -> str:
    """A row for each customer who began: `cohort`, the value `v` of the group, `offsets` of the returns."""
    most = parameters.add(retention.offsets, "Int64")
    began = "minIf(began, firsts > 0) AS start, argMinIf(p, began, firsts > 0) AS cohort"
    began += ", argMinIf(value, began, firsts > 0).1 AS v"
    returns = "groupArrayIf((p, back), backs > 0) AS returns"
    later = f"arrayFilter(r -> r.2 > start AND r.1 - cohort <= {most}, returns)"
    offsets = f"arrayMap(r -> toInt64(r.1 - cohort), {later}) AS offsets"
    grouped = f"SELECT {began}, {returns} FROM ({periods}) GROUP BY c HAVING sum(firsts) > 0"
    return f"SELECT cohort, v, {offsets} FROM ({grouped})"


def _asked(retention: Retention, scope: Scope) -> Iterator[Field]:
    """Every field that the conditions name."""
    conditions = (*retention.filters, *retention.first, *retention.returning)
    yield from asked(scope, conditions)
