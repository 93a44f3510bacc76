"""A Query within a Scope -> one SELECT and its parameters. Pure.

Values are parameters (`{p0:String}`), never text. Field names pass through `app.sql_fields` alone. Every
output column arrives as JSON text or NULL, so a type survives the trip; times arrive as Unix milliseconds.
Next reader: `app.read`, which runs the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from app.cursor import Position
from app.fields import COLUMNS, Field, Kind, resolve
from app.fill import moments
from app.filters import Filter
from app.operators import Op
from app.query import TIME_OUTPUT, Order, Query
from app.query_request import Bucket
from app.scope import Scope
from app.sql_buckets import bucket_start
from app.sql_fields import (
    column,
    elements,
    in_order,
    json_text,
    key,
    milliseconds,
    order_of_key,
    text_of_key,
)
from app.sql_fill import all_buckets, filled
from app.sql_filters import asked, where
from app.sql_functions import COUNTS, compute
from app.sql_literals import Parameter, Parameters

RAW_COLUMNS = tuple(field for name, field in COLUMNS.items() if name != "project_id")


# The id ends every order, so that pages do not overlap. Name, and whether it is descending.
_NEWEST_FIRST = (("event_time", True), ("time_recorded", True), ("unique_req_id", True))


class Output(msgspec.Struct, frozen=True):
    """One column of the answer. `is_time`: Unix milliseconds, shown in the query's zone if `zoned`."""

    name: str
    is_time: bool = False
    zoned: bool = False


class Statement(msgspec.Struct, frozen=True):
    """`outputs` describe the columns; for raw events they are RAW_COLUMNS' and the body comes last."""

    sql: str
    parameters: dict[str, Parameter]
    outputs: tuple[Output, ...]


def to_statement(query: Query, scope: Scope) -> Statement:
    """The SELECT that answers `query` for whoever may see `scope`."""
    parameters = Parameters()
    conditions = where(scope, query.period, query.filters, parameters)
    named = elements((*_shown(query), *asked(scope, query.filters)))
    if not query.is_raw:
        return _grouped(query, named, conditions, parameters)
    if query.after is not None:
        conditions = f"{conditions} AND {_behind(query, query.after, parameters)}"
    if not query.order_by and _all_match(query, scope):
        conditions = f"{conditions} AND event_time >= ({_oldest_shown(query, conditions, parameters)})"
    return _raw(query, named, conditions, parameters)


def _raw(query: Query, named: str, conditions: str, parameters: Parameters) -> Statement:
    outputs = tuple(Output(field.name, is_time=field.kind is Kind.TIME) for field in RAW_COLUMNS)
    selected = [milliseconds(f) if f.kind is Kind.TIME else column(f) for f in RAW_COLUMNS]
    order = [_raw_order(term) for term in query.order_by]
    order += [f"{name} DESC" for name, _ in _NEWEST_FIRST]
    select = ", ".join([*selected, "body"])
    parts = ("SELECT", select, "FROM events WHERE", conditions, "ORDER BY", ", ".join(order))
    sql = named + " ".join((*parts, _limit(query, parameters)))
    return Statement(sql, parameters.values, outputs)


def _shown(query: Query) -> Iterator[Field]:
    """Every field that the query names outside its filters."""
    yield from query.group_by
    yield from (computation.field for computation in query.computations if computation.field is not None)
    yield from (resolve(order.output) for order in query.order_by if query.is_raw)


def _all_match(query: Query, scope: Scope) -> bool:
    """Does the sort key alone find what is asked for?"""
    in_key = (
        isinstance(item, Filter) and item.field.name == "event_name" and item.op in (Op.EQUALS, Op.IN)
        for item in query.filters
    )
    return scope.customer_identifier is None and all(in_key)


def _oldest_shown(query: Query, conditions: str, parameters: Parameters) -> str:
    """The time of the last of the newest events. The sort key finds it from the end, and stops there, but
    only in an order of time alone; then a few granules are left to be read in the whole order. Where other
    filters decide, few events may match, and both questions would read everything."""
    count = parameters.add(query.offset + _fetched(query), "UInt64")
    newest = ("SELECT event_time FROM events WHERE", conditions, "ORDER BY event_time DESC LIMIT", count)
    return " ".join(("SELECT min(event_time) FROM (", *newest, ")"))


def _behind(query: Query, after: Position, parameters: Parameters) -> str:
    """True of the events that follow `after` in the order of `_raw`. None of what it compares is null."""
    directions: dict[str, bool] = {}
    for name, descending in (*((o.output, o.descending) for o in query.order_by), *_NEWEST_FIRST):
        directions.setdefault(name, descending)
    condition = ""
    for name, descending in reversed(directions.items()):
        value, sign = _place(name, after, parameters), "<" if descending else ">"
        tied = f" OR {name} = {value} AND {condition}" if condition else ""
        # The first of the two alone is what the engine finds by its sort key.
        condition = f"({name} {sign}= {value} AND ({name} {sign} {value}{tied}))"
    return condition


def _place(name: str, after: Position, parameters: Parameters) -> str:
    if name == "unique_req_id":
        return f"unhex({parameters.add(after.unique_req_id, 'String')})"
    moment = after.event_time if name == "event_time" else after.time_recorded
    return f"fromUnixTimestamp64Milli({parameters.add(moment, 'Int64')}, 'UTC')"


def _raw_order(order: Order) -> str:
    field = resolve(order.output)
    if field.kind is Kind.CUSTOM:
        return in_order(json_text(field), order.descending)
    return _plain_order(column(field), order.descending)


def _grouped(query: Query, named: str, conditions: str, parameters: Parameters) -> Statement:
    """Groups are formed inside; their keys and results become JSON text outside, once for each group."""
    inner: list[str] = []
    outer: list[str] = []
    outputs: list[Output] = []
    orders: list[Callable[[bool], str]] = []  # of each output: is it descending? -> ORDER BY terms
    if query.bucket is not None:
        zone = parameters.add(query.timezone, "String")
        inner.append(_bucket(query, query.bucket, "event_time", zone))
        outer.append("toString(k0)" if query.fill else f"toString({_bucket_ms('k0', zone)})")
        outputs.append(Output(TIME_OUTPUT, is_time=True, zoned=True))
        orders.append(partial(_plain_order, "k0"))
    for field in query.group_by:
        alias = f"k{len(inner)}"
        orders.append(partial(order_of_key, field, alias, f"o{len(outer)}"))
        outer.append(text_of_key(field, alias))
        inner.append(key(field))
        outputs.append(Output(field.name))
    keys = [f"k{index}" for index in range(len(inner))]
    selected = [f"{expression} AS {alias}" for expression, alias in zip(inner, keys, strict=True)]
    for index, computation in enumerate(query.computations):
        computed = compute(computation, f"a{index}_", query.computations)
        selected += computed.aggregates
        by_text = partial(in_order, f"o{len(outer)}")
        orders.append(partial(_plain_order, computed.sorted_by) if computed.sorted_by else by_text)
        is_empty_null = query.fill and computation.function not in COUNTS
        outer.append(f"if(filled, NULL, {computed.result})" if is_empty_null else computed.result)
        outputs.append(Output(computation.output, is_time=computed.is_time))
    texts = [f"{expression} AS o{index}" for index, expression in enumerate(outer)]
    names = [output.name for output in outputs]
    order = [orders[names.index(o.output)](o.descending) for o in query.order_by]
    order += [orders[index](False) for index in range(len(keys))]
    groups = [f"{named}SELECT", ", ".join(selected), "FROM events WHERE", conditions]
    if keys:
        groups += ["GROUP BY", ", ".join(keys)]
    formed = " ".join(groups)
    if query.fill and query.bucket is not None:
        formed = _filled(
            query, query.bucket, formed, [one.rpartition(" AS ")[2] for one in selected], parameters
        )
    sql = " ".join(("SELECT", ", ".join(texts), "FROM (", formed, ")"))
    if order:
        sql += " ORDER BY " + ", ".join(order)
    return Statement(f"{sql} {_limit(query, parameters)}", parameters.values, tuple(outputs))


def _filled(query: Query, bucket: Bucket, groups: str, columns: Sequence[str], parameters: Parameters) -> str:
    """`groups`, whose `columns` begin with those they are formed by, with a row for every empty bucket."""
    zone = parameters.add(query.timezone, "String")
    of_buckets = all_buckets(
        moments(query.period, bucket),
        lambda moment: _bucket_ms(_bucket(query, bucket, moment, zone), zone),
        parameters,
    )
    first = 1 + len(query.group_by)
    return filled(
        groups,
        bucket=_bucket_ms("k0", zone),
        keys=columns[1:first],
        aggregates=columns[first:],
        counts=[f"a{index}_n" for index, one in enumerate(query.computations) if one.function in COUNTS],
        buckets=of_buckets,
    )


def _bucket(query: Query, bucket: Bucket, moment: str, zone: str) -> str:
    return bucket_start(bucket, moment, zone=query.timezone, parameter=zone, period=query.period)


def _bucket_ms(bucket: str, zone: str) -> str:
    """When it begins, in Unix milliseconds."""
    return f"toUnixTimestamp64Milli(toDateTime64({bucket}, 3, {zone}))"


def _plain_order(expression: str, descending: bool) -> str:
    return f"{expression} {'DESC' if descending else 'ASC'} NULLS LAST"


def _limit(query: Query, parameters: Parameters) -> str:
    limit = parameters.add(_fetched(query), "UInt64")
    return f"LIMIT {limit} OFFSET {parameters.add(query.offset, 'UInt64')}"


def _fetched(query: Query) -> int:
    """One row more than is shown tells whether another page follows."""
    return query.limit + query.is_paged
