"""The sessions of a Timeline -> one SELECT. Pure. The events are `app.sql`'s.

Next reader: `app.analyse`, which runs it.
"""

from __future__ import annotations

from app.scope import Scope
from app.sql_fields import elements
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import inside, select
from app.timeline import MAX_SESSIONS, Timeline


def to_sessions(timeline: Timeline, scope: Scope) -> tuple[str, dict[str, Parameter]]:
    """One row: how many there are, and the newest as (first, last, events), in Unix milliseconds."""
    parameters = Parameters()
    query = timeline.query
    conditions = where(scope, query.period, query.filters, parameters)
    gap = parameters.add(timeline.gap_ms or 0, "Int64")
    times = select(
        ["arraySort(groupArray(toUnixTimestamp64Milli(event_time))) AS t"], "events", "WHERE", conditions
    )
    split = f"arraySplit((t, d) -> d > {gap}, t, arrayDifference(t)) AS s"
    newest = f"arraySlice(arrayReverse(s), 1, {MAX_SESSIONS})"
    columns = ["length(s)", f"arrayMap(one -> [one[1], one[-1], toInt64(length(one))], {newest})"]
    named = elements(asked(scope, query.filters))
    return select(columns, inside(select([split], inside(named + times)))), parameters.values
