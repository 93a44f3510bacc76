"""The computations of a query: JSON -> functions of fields, each with the name of its column. Pure.

What a function means is `app.sql_functions`' business.
Next reader: `app.query`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.fields import Field, FieldName, Kind, echo, resolve

MAX_COMPUTATIONS = 20
MAX_NAME_CHARACTERS = 200


class Function(enum.Enum):
    """What can be computed of a group."""

    COUNT = "count"
    COUNT_DISTINCT = "count_distinct"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    MEDIAN = "median"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"
    STDDEV = "stddev"
    FIRST = "first"
    LAST = "last"


QUANTILES = {Function.MEDIAN: 0.5, Function.P90: 0.9, Function.P95: 0.95, Function.P99: 0.99}
OF_ANY_VALUE = frozenset((Function.COUNT, Function.COUNT_DISTINCT, Function.FIRST, Function.LAST))
OF_TIMES = OF_ANY_VALUE | {Function.MIN, Function.MAX}


class ComputationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One computed column."""

    function: Annotated[Function, Meta(description="What is computed; all but `count` need a field.")]
    field_name: FieldName | UnsetType = UNSET
    as_: OutputName | UnsetType = msgspec.field(name="as", default=UNSET)

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        if self.field_name is not UNSET:
            if reason := _unfit(self.function, resolve(self.field_name)):
                yield ".field_name", reason
        elif self.function is not Function.COUNT:
            yield ".field_name", f"required for {self.function.value}"


OutputName = Annotated[
    str,
    Meta(
        description="Name of the column (200 characters); else `<function>_<field_name>`, or plain `count`.",
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
    ),
]
Computations = Annotated[
    tuple[ComputationRequest, ...],
    Meta(description="Columns to compute of each group; at most 20.", max_length=MAX_COMPUTATIONS),
]


class Computation(msgspec.Struct, frozen=True):
    """One computed column, called `output` in the answer. Only `count` may have no field."""

    function: Function
    field: Field | None
    output: str


def to_computations(asked: Iterable[ComputationRequest]) -> tuple[Computation, ...]:
    """What computations without problems mean."""
    return tuple(map(_computation, asked))


def _computation(asked: ComputationRequest) -> Computation:
    function = asked.function
    if asked.field_name is UNSET:
        field, output = None, function.value
    else:
        field, output = resolve(asked.field_name), f"{function.value}_{asked.field_name}"
    return Computation(function, field, output if asked.as_ is UNSET else asked.as_)


def _unfit(function: Function, field: Field) -> str:
    """Why `function` could never have a result for a field of this kind, or ""."""
    if function in OF_ANY_VALUE or field.kind is Kind.CUSTOM:
        return ""
    if field.kind is Kind.TIME and function in OF_TIMES:
        return ""
    others = "count, count_distinct, first or last"
    return f"{function.value} sees numbers only, and `{field.name}` never holds one; use {others}"


def repeated_outputs(groups: Iterable[str], computations: Iterable[Computation]) -> Iterator[str]:
    """What is wrong with the names of the columns: an object cannot hold two of one name."""
    seen = set(groups)
    for computation in computations:
        if computation.output in seen:
            yield f'two columns would be called `{echo(computation.output)}`; name one with "as"'
        seen.add(computation.output)
