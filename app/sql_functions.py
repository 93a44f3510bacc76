"""What each function of a query computes, in ClickHouse's SQL. Pure.

A computation is aggregates over the events of a group, and the JSON text of the result made of them, once for
each group. Numbers of a field come in three stored types (`app.sql_fields`); functions of numbers see those
and nothing else.
Next reader: `app.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from app.computations import OF_ANY_VALUE, QUANTILES, Computation, Function
from app.fields import Field, Kind
from app.sql_fields import (
    column,
    distinct,
    is_null,
    key,
    milliseconds,
    number,
    other_number,
    text_of_key,
    whole_number,
)

# Which of two events comes first.
_SEQUENCE = "(event_time, time_recorded, unique_req_id)"
COUNTS = frozenset((Function.COUNT, Function.COUNT_DISTINCT))


class Computed(msgspec.Struct, frozen=True):
    """`aggregates`: each with its alias. `result`: JSON text or NULL; Unix milliseconds where `is_time`.
    `sorted_by`: a number that orders like the result, "" where only its text does."""

    aggregates: list[str]
    result: str
    is_time: bool = False
    sorted_by: str = ""


def compute(computation: Computation, alias: str, together: Iterable[Computation]) -> Computed:
    """The SQL of one computation; its aggregates are named `alias` + letter. `together`: all of the query's,
    since quantiles of one field are found in one list of its values."""
    field, function = computation.field, computation.function
    if function in COUNTS:
        return Computed(
            [f"{_count(function, field)} AS {alias}n"], f"toString({alias}n)", sorted_by=f"{alias}n"
        )
    if field is None:  # app.computations lets only `count` through without a field
        raise ValueError(f"{function.value} needs a field")
    if function in OF_ANY_VALUE:
        return _at_the_end(function, field, alias)
    if field.kind is Kind.TIME:
        moment = f"if(count() = 0, NULL, toUnixTimestamp64Milli({function.value}({column(field)})))"
        return Computed([f"{moment} AS {alias}n"], f"toString({alias}n)", is_time=True)
    if function in QUANTILES:
        levels = sorted(
            {QUANTILES[c.function] for c in together if c.field == field and c.function in QUANTILES}
        )
        return Computed(*_quantile(field, levels, levels.index(QUANTILES[function]), alias))
    return Computed(*_numeric(function, field, alias))


def _count(function: Function, field: Field | None) -> str:
    if field is None:
        return "count()"
    return distinct(field) if function is Function.COUNT_DISTINCT else f"countIf(NOT {is_null(field)})"


def _at_the_end(function: Function, field: Field, alias: str) -> Computed:
    """The value of the first or last event that has one."""
    extreme = "argMin" if function is Function.FIRST else "argMax"
    is_time = field.kind is Kind.TIME
    value = milliseconds(field) if is_time else key(field)
    found = f"{extreme}OrNullIf({value}, {_SEQUENCE}, NOT {is_null(field)}) AS {alias}v"
    return Computed([found], f"toString({alias}v)" if is_time else text_of_key(field, f"{alias}v"), is_time)


def _quantile(field: Field, levels: list[float], index: int, alias: str) -> tuple[list[str], str]:
    """The engine computes aggregates that are written alike once. Without any number they are not finite."""
    written = ", ".join(map(str, levels))
    aggregate = f"quantilesExactInclusive({written})({number(field)}) AS {alias}q"
    return [aggregate], _real(f"{alias}q[{index + 1}]")


def _numeric(function: Function, field: Field, alias: str) -> tuple[list[str], str]:
    """Integers and other numbers are aggregated apart, so that integers stay exact at any size."""
    if function is Function.STDDEV:
        return [f"stddevPopStableOrNull({number(field)}) AS {alias}d"], _real(f"{alias}d")
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
    count = f"{alias}n"
    aggregates.append(f"count({number(field)}) AS {count}")
    return aggregates, f"if({count} = 0, NULL, {_real(f'({total} / {count})')})"


def _real(expression: str) -> str:
    """JSON text of a float; NULL beyond its range, which JSON cannot say."""
    return f"if(isFinite({expression}), toJSONString({expression}), NULL)"
