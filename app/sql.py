"""A Query within a Scope -> one SELECT and its parameters. Pure; says what each operator and function means.

Values are parameters (`{p0:String}`), never text. Field names pass through `app.sql_fields` alone. Every
output column arrives as JSON text or NULL, so a type survives the trip; times arrive as Unix milliseconds.
Next reader: `app.read`, which runs the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from app.computations import Computation, Function
from app.fields import COLUMNS, Field, Kind, resolve
from app.filters import Filter
from app.operators import Op
from app.query import TIME_OUTPUT, Order, Query
from app.query_request import Bucket
from app.scope import Scope
from app.sql_fields import (
    column,
    distinct,
    elements,
    in_order,
    is_null,
    json_text,
    key,
    milliseconds,
    order_of_key,
    other_number,
    text_of_key,
    whole_number,
)
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters

RAW_COLUMNS = tuple(field for name, field in COLUMNS.items() if name != "project_id")

_BUCKETS = {
    Bucket.MINUTE: "toStartOfMinute",
    Bucket.FIVE_MINUTES: "toStartOfFiveMinutes",
    Bucket.HOUR: "toStartOfHour",
    Bucket.DAY: "toStartOfDay",
    Bucket.WEEK: "toMonday",
    Bucket.MONTH: "toStartOfMonth",
    Bucket.YEAR: "toStartOfYear",
}


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
    if not query.order_by and _all_match(query, scope):
        conditions = f"{conditions} AND event_time >= ({_oldest_shown(query, conditions, parameters)})"
    return _raw(query, named, conditions, parameters)


def _raw(query: Query, named: str, conditions: str, parameters: Parameters) -> Statement:
    outputs = tuple(Output(field.name, is_time=field.kind is Kind.TIME) for field in RAW_COLUMNS)
    selected = [milliseconds(f) if f.kind is Kind.TIME else column(f) for f in RAW_COLUMNS]
    order = [_raw_order(term) for term in query.order_by]
    # The id ends every order, so that pages do not overlap.
    order += ["event_time DESC", "time_recorded DESC", "unique_req_id DESC"]
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
    count = parameters.add(query.offset + query.limit, "UInt64")
    newest = ("SELECT event_time FROM events WHERE", conditions, "ORDER BY event_time DESC LIMIT", count)
    return " ".join(("SELECT min(event_time) FROM (", *newest, ")"))


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
        inner.append(f"{_BUCKETS[query.bucket]}(event_time, {zone})")
        outer.append(f"toString(toUnixTimestamp64Milli(toDateTime64(k0, 3, {zone})))")
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
        aggregates, result = _computation(computation, f"a{index}_")
        selected += aggregates
        counts = computation.function in (Function.COUNT, Function.COUNT_DISTINCT)
        by_text = partial(in_order, f"o{len(outer)}")
        orders.append(partial(_plain_order, f"a{index}_n") if counts else by_text)
        outer.append(result)
        is_time = computation.field is not None and computation.field.kind is Kind.TIME
        is_time = is_time and computation.function in (Function.MIN, Function.MAX)
        outputs.append(Output(computation.output, is_time=is_time))
    texts = [f"{expression} AS o{index}" for index, expression in enumerate(outer)]
    names = [output.name for output in outputs]
    order = [orders[names.index(o.output)](o.descending) for o in query.order_by]
    order += [orders[index](False) for index in range(len(keys))]
    groups = [f"{named}SELECT", ", ".join(selected), "FROM events WHERE", conditions]
    if keys:
        groups += ["GROUP BY", ", ".join(keys)]
    sql = " ".join(("SELECT", ", ".join(texts), "FROM (", *groups, ")"))
    if order:
        sql += " ORDER BY " + ", ".join(order)
    return Statement(f"{sql} {_limit(query, parameters)}", parameters.values, tuple(outputs))


def _plain_order(expression: str, descending: bool) -> str:
    return f"{expression} {'DESC' if descending else 'ASC'} NULLS LAST"


def _limit(query: Query, parameters: Parameters) -> str:
    limit = parameters.add(query.limit, "UInt64")
    return f"LIMIT {limit} OFFSET {parameters.add(query.offset, 'UInt64')}"


def _computation(computation: Computation, alias: str) -> tuple[list[str], str]:
    """The aggregates of one computation, named `alias` + letter, and the text of its result."""
    field, function = computation.field, computation.function
    if function is Function.COUNT:
        counted = "count()" if field is None else f"countIf(NOT {is_null(field)})"
        return [f"{counted} AS {alias}n"], f"toString({alias}n)"
    if field is None:  # app.query lets only `count` through without a field
        raise ValueError(f"{function.value} needs a field")
    if function is Function.COUNT_DISTINCT:
        return [f"{distinct(field)} AS {alias}n"], f"toString({alias}n)"
    if field.kind is Kind.TIME:
        name = column(field)
        moment = f"if(count() = 0, NULL, toUnixTimestamp64Milli({function.value}({name})))"
        return [f"{moment} AS {alias}n"], f"toString({alias}n)"
    return _numeric(function, field, alias)


def _numeric(function: Function, field: Field, alias: str) -> tuple[list[str], str]:
    """Integers and other numbers are aggregated apart, so that integers stay exact at any size."""
    whole, other = f"{alias}i", f"{alias}f"
    if function in (Function.MIN, Function.MAX):
        name = function.value
        aggregates = [
            f"{name}({whole_number(field)}) AS {whole}",
            f"{name}({other_number(field)}) AS {other}",
        ]
        closer = "<=" if function is Function.MIN else ">"
        result = (
            f"multiIf(isNull({other}), toString({whole}), isNull({whole}), {_real(other)}, "
            f"toFloat64({whole}) {closer} {other}, toString({whole}), {_real(other)})"
        )
        return aggregates, result
    aggregates = [f"sum({whole_number(field)}) AS {whole}", f"sumKahan({other_number(field)}) AS {other}"]
    total = f"(ifNull(toFloat64({whole}), 0) + ifNull({other}, 0))"
    if function is Function.SUM:
        return aggregates, f"if(isNull({other}), toString({whole}), {_real(total)})"
    number = f"{alias}n"
    aggregates.append(f"count({whole_number(field)}) + count({other_number(field)}) AS {number}")
    return aggregates, f"if({number} = 0, NULL, {_real(f'({total} / {number})')})"


def _real(expression: str) -> str:
    """JSON text of a float; NULL beyond its range, which JSON cannot say."""
    return f"if(isFinite({expression}), toJSONString({expression}), NULL)"
