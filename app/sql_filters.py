"""Scope, time period and filters -> the WHERE of every SELECT of events. Pure.

Every value is a parameter (`{p0:String}`); field names pass through `app.sql_fields`.
Next reader: `app.sql`, which builds the rest of the statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.fields import Field
from app.filters import Condition, each_filter
from app.operators import WITH_VALUES, FilterValue, Op
from app.scope import Erased, Scope
from app.sql_conditions import condition_in_sql
from app.time_period import Period

Parameter = FilterValue | Sequence[FilterValue]


class Parameters:
    """Names values as they are written into the statement."""

    def __init__(self) -> None:
        self.values: dict[str, Parameter] = {}

    def add(self, value: Parameter, kind: str) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"

    def operand(self, op: Op, values: Sequence[FilterValue], kind: str) -> str:
        """What stands to the right of `op`: all of the values, or the only one."""
        if op in WITH_VALUES:
            return self.add(values, f"Array({kind})")
        return self.add(values[0], kind)


def where(scope: Scope, period: Period, filters: Iterable[Condition], parameters: Parameters) -> str:
    """The whole condition: the key's scope first, whatever the request says.

    The statement must begin with `app.sql_fields.elements` of the fields of `asked(scope, filters)`.
    """
    conditions = [f"project_id = {parameters.add(scope.project_id, 'String')}"]
    if scope.customer_identifier is not None:
        conditions.append(f"customer_identifier = {parameters.add(scope.customer_identifier, 'String')}")
    conditions += _within(period, parameters)
    conditions += [condition_in_sql(item, parameters) for item in filters]
    conditions += [f"NOT coalesce({_erased(one, parameters)}, 0)" for one in scope.erased]
    return " AND ".join(conditions)


def asked(scope: Scope, filters: Iterable[Condition]) -> Iterator[Field]:
    """Every field that `where` names for them."""
    yield from (item.field for item in each_filter(filters))
    yield from (item.field for one in scope.erased for item in each_filter(one.filters))


def _within(period: Period, parameters: Parameters) -> list[str]:
    start, end = (parameters.add(moment, "Int64") for moment in (period.start_ms, period.end_ms))
    return [
        f"event_time >= fromUnixTimestamp64Milli({start}, 'UTC')",
        f"event_time < fromUnixTimestamp64Milli({end}, 'UTC')",
    ]


def _erased(one: Erased, parameters: Parameters) -> str:
    """True, false or NULL, which means false."""
    up_to = parameters.add(one.up_to_ms, "Int64")
    conditions = [f"time_recorded <= fromUnixTimestamp64Milli({up_to}, 'UTC')"]
    if one.customer_identifier is not None:
        conditions.append(f"customer_identifier = {parameters.add(one.customer_identifier, 'String')}")
    if one.period is not None:
        conditions += _within(one.period, parameters)
    conditions += [condition_in_sql(item, parameters) for item in one.filters]
    return f"({' AND '.join(conditions)})"
