"""Scope, time period and filters -> the WHERE of every SELECT of events. Pure.

Every value is a parameter (`{p0:String}`); field names pass through `app.sql_fields`.
Next reader: `app.sql`, which builds the rest of the statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.fields import Field, Kind
from app.filters import Filter, FilterValue, Op
from app.scope import Erased, Scope
from app.sql_fields import bare, column, element, is_null, milliseconds, typed
from app.time_period import Period

Parameter = FilterValue | Sequence[FilterValue]

_COMPARISONS = {
    Op.EQUALS: "=",
    Op.NOT_EQUALS: "=",  # negated as a whole: a missing value is not equal to anything
    Op.GREATER_THAN: ">",
    Op.GREATER_THAN_OR_EQUALS: ">=",
    Op.LESS_THAN: "<",
    Op.LESS_THAN_OR_EQUALS: "<=",
    Op.IN: "IN",
}


class Parameters:
    """Names values as they are written into the statement."""

    def __init__(self) -> None:
        self.values: dict[str, Parameter] = {}

    def add(self, value: Parameter, kind: str) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


def where(scope: Scope, period: Period, filters: Iterable[Filter], parameters: Parameters) -> str:
    """The whole condition: the key's scope first, whatever the request says.

    The statement must begin with `app.sql_fields.elements` of the fields of `asked(scope, filters)`.
    """
    conditions = [f"project_id = {parameters.add(scope.project_id, 'String')}"]
    if scope.customer_identifier is not None:
        conditions.append(f"customer_identifier = {parameters.add(scope.customer_identifier, 'String')}")
    conditions += _within(period, parameters)
    conditions += [_condition(item, parameters) for item in filters]
    conditions += [f"NOT coalesce({_erased(one, parameters)}, 0)" for one in scope.erased]
    return " AND ".join(conditions)


def asked(scope: Scope, filters: Iterable[Filter]) -> Iterator[Field]:
    """Every field that `where` names for them."""
    yield from (item.field for item in filters)
    yield from (item.field for one in scope.erased for item in one.filters)


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
    conditions += [_condition(item, parameters) for item in one.filters]
    return f"({' AND '.join(conditions)})"


def _condition(item: Filter, parameters: Parameters) -> str:
    """True where it holds; else false or NULL, which a WHERE takes alike. A negation is never NULL."""
    if item.op is Op.IS_NULL:
        return is_null(item.field)
    if item.op is Op.IS_NOT_NULL:
        return f"NOT {is_null(item.field)}"
    holds = _custom(item, parameters) if item.field.kind is Kind.CUSTOM else _column(item, parameters)
    return f"NOT coalesce({holds}, 0)" if item.op is Op.NOT_EQUALS else holds


def _column(item: Filter, parameters: Parameters) -> str:
    """Bare, since the engine finds no index through a function call."""
    field, sign = item.field, _COMPARISONS[item.op]
    if field.kind is Kind.TIME:
        moment = _bound(item, item.values, "Int64", parameters)
        if item.op is Op.IN:
            return f"{milliseconds(field)} IN {moment}"
        return f"{column(field)} {sign} fromUnixTimestamp64Milli({moment}, 'UTC')"
    kind = "Bool" if field.kind is Kind.FLAG else "String"
    is_plain = item.op in (Op.EQUALS, Op.IN) and all(value != "" for value in item.values)
    stored = bare(field) if is_plain else column(field)
    return f"{stored} {sign} {_bound(item, item.values, kind, parameters)}"


def _custom(item: Filter, parameters: Parameters) -> str:
    """One comparison for each stored type that a value could match; of one event at most one applies.

    The engine compares integers with floats exactly.
    """
    field, sign = item.field, _COMPARISONS[item.op]
    *others, (last, value) = _operands(item, parameters)
    if not others:
        return f"{typed(field, last)} {sign} {value}"
    cases = [f"isNotNull({element(field, k)}), {element(field, k)} {sign} {v}" for k, v in others]
    return f"multiIf({', '.join(cases)}, {element(field, last)} {sign} {value})"


def _operands(item: Filter, parameters: Parameters) -> Iterator[tuple[str, str]]:
    """Stored types and the parameter to compare with, the common types first."""
    texts = [value for value in item.values if isinstance(value, str)]
    flags = [value for value in item.values if isinstance(value, bool)]
    numbers = [v for v in item.values if isinstance(v, int | float) and not isinstance(v, bool)]
    if texts:
        yield "String", _bound(item, texts, "String", parameters)
    if flags:
        yield "Bool", _bound(item, flags, "Bool", parameters)
    if numbers and item.op is not Op.IN:
        number = _bound(item, numbers, _kind(numbers[0]), parameters)
        yield from ((kind, number) for kind in ("Int64", "Float64", "UInt64"))
        return
    for kind, values in _by_stored_kind(numbers):
        yield kind, _bound(item, values, kind, parameters)


def _bound(item: Filter, values: Sequence[FilterValue], kind: str, parameters: Parameters) -> str:
    if item.op is Op.IN:
        return parameters.add(values, f"Array({kind})")
    return parameters.add(values[0], kind)


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
