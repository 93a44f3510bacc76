"""One filter, or a tree of them, in ClickHouse's SQL. Pure; says what each operator means.

Every value is a parameter (`{p0:String}`); field names pass through `app.sql_fields`.
Next reader: `app.sql_filters`, which makes a WHERE of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from app.fields import Field, Kind
from app.filters import Condition, Filter
from app.operators import OPPOSITES, FilterValue, Op
from app.sql_fields import (
    ITEM_NUMBER,
    MIXED_ARRAY,
    array,
    array_numbers,
    bare,
    column,
    element,
    is_null,
    milliseconds,
    typed,
)

if TYPE_CHECKING:
    from app.sql_literals import Parameters

_SIGNS = {
    Op.EQUALS: "=",
    Op.GREATER_THAN: ">",
    Op.GREATER_THAN_OR_EQUALS: ">=",
    Op.LESS_THAN: "<",
    Op.LESS_THAN_OR_EQUALS: "<=",
    Op.IN: "IN",
}
_TESTS = {  # of a string and a parameter
    Op.CONTAINS: "position({}, {}) > 0",
    Op.STARTS_WITH: "startsWith({}, {})",
    Op.ENDS_WITH: "endsWith({}, {})",
    Op.MATCHES: "match({}, {})",
}


def condition_in_sql(condition: Condition, parameters: Parameters) -> str:
    """True where it holds; else false or NULL, which a WHERE, an AND and an OR take alike. A negation is
    never NULL, and nothing negates a whole `or`."""
    if isinstance(condition, Filter):
        return _filter(condition, parameters)
    elements = (
        " AND ".join(condition_in_sql(one, parameters) for one in element) for element in condition.elements
    )
    return "(" + " OR ".join(f"({element})" for element in elements) + ")"


def _filter(item: Filter, parameters: Parameters) -> str:
    if item.op is Op.IS_NULL:
        return is_null(item.field)
    if item.op is Op.IS_NOT_NULL:
        return f"NOT {is_null(item.field)}"
    op = OPPOSITES.get(item.op, item.op)
    if item.field.kind is Kind.CUSTOM:
        holds = _custom(item.field, op, item.values, parameters)
    else:
        holds = _column(item.field, op, item.values, parameters)
    # Negated as a whole: a value that is missing equals nothing, and is in nothing.
    return holds if op is item.op else f"NOT coalesce({holds}, 0)"


def _column(field: Field, op: Op, values: tuple[FilterValue, ...], parameters: Parameters) -> str:
    """Bare, since the engine finds no index through a function call."""
    if op in _TESTS:
        return _TESTS[op].format(column(field), parameters.add(values[0], "String"))
    sign = _SIGNS[op]
    if field.kind is Kind.TIME:
        moment = parameters.operand(op, values, "Int64")
        if op is Op.IN:
            return f"{milliseconds(field)} IN {moment}"
        return f"{column(field)} {sign} fromUnixTimestamp64Milli({moment}, 'UTC')"
    kind = "Bool" if field.kind is Kind.FLAG else "String"
    is_plain = op in (Op.EQUALS, Op.IN) and all(value != "" for value in values)
    stored = bare(field) if is_plain else column(field)
    return f"{stored} {sign} {parameters.operand(op, values, kind)}"


def _custom(field: Field, op: Op, values: tuple[FilterValue, ...], parameters: Parameters) -> str:
    """One comparison for each stored type that a value could match; of one event at most one applies.

    The engine compares integers with floats exactly.
    """
    if op is Op.CONTAINS:
        return _contains(field, values[0], parameters)
    if op in _TESTS:
        return _TESTS[op].format(typed(field, "String"), parameters.add(values[0], "String"))
    sign = _SIGNS[op]
    *others, (last, value) = _operands(op, values, parameters)
    if not others:
        return f"{typed(field, last)} {sign} {value}"
    cases = [f"isNotNull({element(field, k)}), {element(field, k)} {sign} {v}" for k, v in others]
    return f"multiIf({', '.join(cases)}, {element(field, last)} {sign} {value})"


def _contains(field: Field, value: FilterValue, parameters: Parameters) -> str:
    """A string in a string, or a value in an array, which is stored by the type of its items. Arrays are
    looked for only where there is no string: what rarely holds is in a branch that is not computed."""
    mixed = array(field, MIXED_ARRAY)
    if isinstance(value, str):
        text, string = parameters.add(value, "String"), element(field, "String")
        items = array(field, "Array(Nullable(String))")
        in_array = f"has({items}, {text}) OR arrayExists(i -> i.String = {text}, {mixed})"
        return f"if(isNull({string}), {in_array}, {_TESTS[Op.CONTAINS].format(string, text)})"
    if isinstance(value, bool):
        flag = parameters.add(value, "Bool")
        items = array(field, "Array(Nullable(Bool))")
        return f"(has({items}, {flag}) OR arrayExists(i -> i.Bool = {flag}, {mixed}))"
    number = parameters.add(float(value), "Float64")
    found = [f"has({items}, {number})" for items in array_numbers(field)]
    found.append(f"arrayExists(i -> {ITEM_NUMBER} = {number}, {mixed})")
    return f"({' OR '.join(found)})"


def _operands(op: Op, values: tuple[FilterValue, ...], parameters: Parameters) -> Iterator[tuple[str, str]]:
    """Stored types and the parameter to compare with, the common types first."""
    texts = [value for value in values if isinstance(value, str)]
    flags = [value for value in values if isinstance(value, bool)]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if texts:
        yield "String", parameters.operand(op, texts, "String")
    if flags:
        yield "Bool", parameters.operand(op, flags, "Bool")
    if numbers and op is not Op.IN:
        number = parameters.operand(op, numbers, _kind(numbers[0]))
        yield from ((kind, number) for kind in ("Int64", "Float64", "UInt64"))
        return
    for kind, some in _by_stored_kind(numbers):
        yield kind, parameters.operand(op, some, kind)


def _kind(number: int | float) -> str:
    if isinstance(number, float):
        return "Float64"
    return "Int64" if number < 2**63 else "UInt64"


def _by_stored_kind(numbers: Sequence[int | float]) -> Iterator[tuple[str, list[int | float]]]:
    """For each stored type of number, those of `numbers` that a value of that type can equal."""
    whole = [int(number) for number in numbers if number == int(number)]
    found: dict[str, list[int | float]] = {
        "Int64": [number for number in whole if -(2**63) <= number < 2**63],
        "UInt64": [number for number in whole if 2**63 <= number < 2**64],
        "Float64": [float(number) for number in numbers if float(number) == number],
    }
    if 0 in found["Float64"]:  # the engine's IN compares bits, and zero has two of them
        found["Float64"] += [0.0, -0.0]
    yield from ((kind, values) for kind, values in found.items() if values)
