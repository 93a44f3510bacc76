"""Usage -> one SELECT. Pure; what is counted is written down in `app.usage`.

Next reader: `app.manage_usage`, which runs it.
"""

from __future__ import annotations

from app.scope import Scope
from app.sql_fields import elements
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import select
from app.time_period import Period
from app.timestamp import MAX_MS, MIN_MS
from app.usage import MAX_ROWS, Usage


def to_statement(usage: Usage, scope: Scope) -> tuple[str, dict[str, Parameter]]:
    """Rows: index of the day, event name, events; the most frequent names first. One more than MAX_ROWS."""
    parameters = Parameters()
    conditions = where(scope, Period(MIN_MS, MAX_MS + 1), (), parameters)
    start, end = (parameters.add(ms, "Int64") for ms in (usage.period.start_ms, usage.period.end_ms))
    zone = parameters.add(usage.timezone, "String")
    recorded = (
        f"AND time_recorded >= fromUnixTimestamp64Milli({start}, 'UTC')",
        f"AND time_recorded < fromUnixTimestamp64Milli({end}, 'UTC')",
    )
    columns = [
        f"toInt32(toDate32(toTimeZone(time_recorded, {zone}))) AS day",
        "event_name",
        "count() AS events",
    ]
    grouped = f"GROUP BY day, event_name ORDER BY day, events DESC, event_name LIMIT {MAX_ROWS + 1}"
    named = elements(asked(scope, ()))
    return named + select(columns, "events", "WHERE", conditions, *recorded, grouped), parameters.values
