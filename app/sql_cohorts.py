"""Retention -> one SELECT. Pure; what is counted is written down in `app.cohorts`.

First a row for each customer and period: the earliest event of `first` and the latest of `returning` in it.
Of these a row for each customer: the cohort, and in which periods after there was a later event.
Next reader: `app.analyse`, which runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.cohorts import Length, Retention
from app.fields import Field
from app.scope import Scope
from app.sql_fields import elements, in_order, is_null, key, text_of_key
from app.sql_filters import asked, holds, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import inside, select
from app.time_period import Period

# As `app.cohorts.index_of`.
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
    returned = "sumMap(offsets, arrayMap(o -> toUInt64(1), offsets)) AS returned"
    counted = ["cohort", "count() AS size", returned]
    if not retention.group_by:
        columns = ["1 AS is_total", "NULL AS v", *counted]
        return select(columns, inside(customers), "GROUP BY cohort ORDER BY cohort"), parameters.values
    sets = "GROUP BY GROUPING SETS ((v, cohort), (cohort))"
    cohorts = select(["grouping(v) AS is_total", "v", *counted], inside(customers), sets)
    sized = select(["*", "sum(size) OVER (PARTITION BY is_total, v) AS whole"], inside(cohorts))
    largest = f"is_total DESC, whole DESC, {in_order('v', False)}"
    ranked = select(["*", f"dense_rank() OVER (ORDER BY {largest}) AS rank"], inside(sized))
    few = f"WHERE rank <= {parameters.add(retention.limit + 1, 'UInt64')} ORDER BY rank, cohort"
    columns = ["is_total", "v", "cohort", "size", "returned"]
    return select(columns, inside(ranked), few), parameters.values


def _periods(retention: Retention, scope: Scope, parameters: Parameters) -> str:
    """A row for each customer `c` and period `p`: `began`, the first of `firsts` events of `first`,
    with its group's value; `back`, the last of `backs` returns."""
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
        # Written once and named: a condition may be long.
        f"{first} AS is_first",
        f"{returning} AS is_return",
        "if(is_first, 1, 0) AS f",
        "if(is_return, 1, 0) AS b",
    ]
    value = "CAST(NULL AS Nullable(String))"
    for field in retention.group_by:
        columns.append(f"{key(field)} AS k")
        value = f"if(f, {text_of_key(field, 'k')}, NULL)"
    fields = [retention.by, *retention.group_by, *_asked(retention, scope)]
    conditions += f" AND NOT {is_null(retention.by)} AND (is_first OR is_return)"
    if retention.new_only:
        earlier = Period(0, retention.period.start_ms)
        known = where(scope, earlier, retention.filters, parameters)
        known += f" AND NOT {is_null(retention.by)} AND {holds(retention.first, parameters)}"
        before = elements(fields) + select([key(retention.by)], "events", "WHERE", known)
        conditions += f" AND {key(retention.by)} NOT IN {inside(before)}"
    events = elements(fields) + select([*columns, f"{value} AS v"], "events", "WHERE", conditions)
    # In a tuple, since aggregates pass over NULL.
    firsts = ["countIf(f) AS firsts", "minIf(o, f) AS began", "argMinIf(tuple(v), o, f) AS value"]
    backs = ["countIf(b) AS backs", "maxIf(o, b) AS back"]
    return select(["c", "p", *firsts, *backs], inside(events), "GROUP BY c, p")


def _customers(retention: Retention, periods: str, parameters: Parameters) -> str:
    """A row for each customer who began: `cohort`, the value `v` of the group, `offsets` of the returns."""
    most = parameters.add(retention.offsets, "Int64")
    columns = [
        "minIf(began, firsts > 0) AS start",
        "argMinIf(p, began, firsts > 0) AS cohort",
        "argMinIf(value, began, firsts > 0).1 AS v",
        "groupArrayIf((p, back), backs > 0) AS returns",
    ]
    later = f"arrayFilter(r -> r.2 > start AND r.1 - cohort <= {most}, returns)"
    offsets = f"arrayMap(r -> toInt64(r.1 - cohort), {later}) AS offsets"
    grouped = select(columns, inside(periods), "GROUP BY c HAVING sum(firsts) > 0")
    return select(["cohort", "v", offsets], inside(grouped))


def _asked(retention: Retention, scope: Scope) -> Iterator[Field]:
    """Every field that the conditions name."""
    conditions = (*retention.filters, *retention.first, *retention.returning)
    yield from asked(scope, conditions)
