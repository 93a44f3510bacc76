"""Scope, time period and filters -> the WHERE of every SELECT of events. Pure.

Every value is a parameter (`{p0:String}`); field names pass through `app.sql_fields`. The values of
tombstones, of which there may be thousands, are literals made of digits (`app.sql_literals`).
Next reader: `app.sql`, which builds the rest of the statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from app.fields import COLUMNS, Field
from app.filters import Condition, each_filter
from app.scope import Erased, Scope
from app.sql_conditions import condition_in_sql
from app.sql_fields import milliseconds
from app.sql_literals import Literals, Parameters
from app.time_period import Period


def where(scope: Scope, period: Period, filters: Iterable[Condition], parameters: Parameters) -> str:
    """The whole condition: the key's scope first, whatever the request says.

    The statement must begin with `app.sql_fields.elements` of the fields of `asked(scope, filters)`.
    """
    conditions = [f"project_id = {parameters.add(scope.project_id, 'String')}"]
    if scope.customer_identifier is not None:
        conditions.append(f"customer_identifier = {parameters.add(scope.customer_identifier, 'String')}")
    conditions += _within(period, parameters)
    if scope.oldest_ms:
        oldest = parameters.add(scope.oldest_ms, "Int64")
        conditions.append(f"time_recorded >= fromUnixTimestamp64Milli({oldest}, 'UTC')")
    conditions += [condition_in_sql(item, parameters) for item in filters]
    conditions += [f"NOT coalesce({one}, 0)" for one in erased(scope.erased)]
    return " AND ".join(conditions)


def holds(conditions: Iterable[Condition], parameters: Parameters) -> str:
    """Do all of them hold for an event that `where` lets through? True; else false or NULL."""
    return f"({' AND '.join(condition_in_sql(one, parameters) for one in conditions) or 'true'})"


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


def erased(tombstones: Iterable[Erased]) -> Iterator[str]:
    """A condition for each tombstone, true of the events that it means, else false or NULL; one for all of
    those that mean whole customers, whose cost does not grow with their number."""
    customers: dict[str, int] = {}
    for one in tombstones:
        if one.is_of_customers:
            for customer in one.customers or ():
                customers[customer] = max(customers.get(customer, 0), one.up_to_ms)
        else:
            yield _erased(one)
    if customers:
        yield f"{milliseconds(COLUMNS['time_recorded'])} <= {of_customer(customers, -1)}"


def of_customer(values: Mapping[str, str | int], otherwise: str | int) -> str:
    """What `values` has for the event's customer; `otherwise` where it has nothing."""
    literals = Literals()
    kind = "Int64" if isinstance(otherwise, int) else "String"
    names = literals.add([*values], "Array(String)")
    found = literals.add([*values.values()], f"Array({kind})")
    return f"transform(customer_identifier, {names}, {found}, {literals.add(otherwise, kind)})"


def _erased(one: Erased) -> str:
    literals = Literals()
    up_to = literals.add(one.up_to_ms, "Int64")
    conditions = [f"time_recorded <= fromUnixTimestamp64Milli({up_to}, 'UTC')"]
    if one.customers is not None:
        conditions.append(f"customer_identifier IN {literals.add(one.customers, 'Array(String)')}")
    if one.period is not None:
        conditions += _within(one.period, literals)
    conditions += [condition_in_sql(item, literals) for item in one.filters]
    return f"({' AND '.join(conditions)})"
