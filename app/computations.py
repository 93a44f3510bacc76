"""The computations of a query: JSON -> functions of fields, each with the name of its column. Pure.

Next reader: `app.query`.
"""

from __future__ import annotations

import enum

import msgspec

from app.errors import Problem
from app.fields import Field, Kind, echo, unknown
from app.filters import read_field, read_word

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


class Computation(msgspec.Struct, frozen=True):
    """One computed column, called `output` in the answer. Only `count` may have no field."""

    function: Function
    field: Field | None
    output: str


_FUNCTIONS = {function.value: function for function in Function}
_LATER_FUNCTIONS = ("median", "p90", "p95", "p99", "stddev", "first", "last")


def read_computations(value: object, problems: list[Problem]) -> tuple[Computation, ...]:
    """The computed columns in `value`, the request's `computations`; problems are added."""
    if not isinstance(value, list) or len(value) > MAX_COMPUTATIONS:
        message = f"expected an array of at most {MAX_COMPUTATIONS} objects"
        problems.append(Problem("$.computations", message))
        return ()
    found = [_computation(item, f"$.computations[{i}]", problems) for i, item in enumerate(value)]
    return tuple(item for item in found if item is not None)


def _computation(item: object, path: str, problems: list[Problem]) -> Computation | None:
    if not isinstance(item, dict):
        problems.append(Problem(path, 'expected an object with "function" and "field_name"'))
        return None
    for name in item:
        if name not in ("field_name", "function", "as"):
            message = unknown("member", name, ("field_name", "function", "as"))
            problems.append(Problem(f"{path}.{name}"[:200], message))
    function = read_word(
        item.get("function"),
        "function",
        _FUNCTIONS,
        _LATER_FUNCTIONS,
        path=f"{path}.function",
        problems=problems,
    )
    field = None
    if "field_name" in item or function is not Function.COUNT:
        field = read_field(item.get("field_name"), f"{path}.field_name", problems)
        if field is None:
            return None
    if function is None:
        return None
    if field is not None and (reason := _unfit(function, field)):
        problems.append(Problem(f"{path}.field_name", reason))
    output = item.get("as", function.value if field is None else f"{function.value}_{field.name}")
    if not isinstance(output, str) or ("as" in item and not 0 < len(output) <= MAX_NAME_CHARACTERS):
        problems.append(Problem(f"{path}.as", f"expected a name of 1 to {MAX_NAME_CHARACTERS} characters"))
        return None
    return Computation(function, field, output)


def _unfit(function: Function, field: Field) -> str | None:
    """Why `function` could never have a result for a field of this kind, or None."""
    if function in (Function.COUNT, Function.COUNT_DISTINCT) or field.kind is Kind.CUSTOM:
        return None
    if field.kind is Kind.TIME and function in (Function.MIN, Function.MAX):
        return None
    return (
        f'{function.value} sees numbers only, and "{field.name}" never holds one; use count or count_distinct'
    )


def check_outputs(outputs: list[str], computations: tuple[Computation, ...], problems: list[Problem]) -> None:
    """One name, one column, `outputs` (those of the groups) counted: an object cannot hold two."""
    seen = set(outputs)
    for computation in computations:
        if computation.output in seen:
            message = f'two columns would be called "{echo(computation.output)}"; name one with "as"'
            problems.append(Problem("$.computations", message))
        seen.add(computation.output)
