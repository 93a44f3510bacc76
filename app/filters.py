"""The filters of a query: JSON -> a tree of conditions. Pure.

A list of filters holds where all of them hold; `{"or": [...]}` holds where one of its elements does, and an
element is a filter, a list of filters or another `or`. There is no `not`: each operator has its opposite.
What values a filter takes is `app.operators`' business, its meaning `app.sql_conditions`'.
Next reader: `app.query`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.errors import Problem
from app.fields import Field, FieldName, resolve
from app.operators import MAX_VALUES, WITH_VALUES, FilterValue, Op, broken_rules, checked, too_many, too_much
from app.rules import Rule
from app.walk import convert, find_problems

MAX_FILTERS = 100  # in the whole tree
MAX_DEPTH = 8  # of `or` in `or`

_VALUE = (
    "A string, number or boolean; for `in` and `not_in` an array of at most 1000 of them. Fields of time are "
    "compared with timestamps. `is_null` and `is_not_null` take none."
)
_ONE_OF_TWO: dict[str, Any] = {"oneOf": [{"required": ["field_name", "op"]}, {"required": ["or"]}]}


class FilterRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition: `field_name`, `op` and, for most ops, `value`; or `or` alone."""

    field_name: FieldName | UnsetType = UNSET
    op: Annotated[Op, Meta(description="How the field's value is tested.")] | UnsetType = UNSET
    value: Annotated[Any, Meta(description=_VALUE)] = UNSET
    or_: Choices | UnsetType = msgspec.field(name="or", default=UNSET)

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        others = {"field_name": self.field_name, "op": self.op, "value": self.value}
        if self.or_ is not UNSET:
            for name, other in others.items():
                if other is not UNSET:
                    yield f".{name}", "`or` stands alone; put another filter beside it"
            return
        for name in ("field_name", "op"):
            if others[name] is UNSET:
                yield f".{name}", "required field is missing"
        if self.field_name is not UNSET and self.op is not UNSET:
            for below, message in broken_rules(self.value, resolve(self.field_name), self.op):
                yield f".value{below}", message


def _check_size(asked: object, depth: int = 0) -> int:
    """The number of filters in undecided JSON: before any of them is looked at. Errors: ValueError."""
    if depth > MAX_DEPTH:
        raise ValueError(f"at most {MAX_DEPTH} levels of `or`")
    items = asked if isinstance(asked, list) else [asked]
    count = 0
    for item in items:
        inside = item.get("or") if isinstance(item, dict) else item
        if isinstance(inside, list):
            count += _check_size(inside, depth + isinstance(item, dict))
        else:
            count += 1
        if count > MAX_FILTERS:
            raise ValueError(f"at most {MAX_FILTERS} filters, counted with those inside `or`")
    return count


def _check_cost(asked: object) -> None:
    """Before a pattern is compiled or a value checked, in JSON of a checked size. Errors: ValueError."""
    patterns = values = 0
    waiting = [asked]
    while waiting:
        match waiting.pop():
            case list(items):
                waiting += items
            case {"or": items}:
                waiting.append(items)
            case {"op": op, "value": value}:
                patterns += op == Op.MATCHES.value
                values += len(value) if isinstance(value, list) and len(value) <= MAX_VALUES else 1
    if reason := too_many(patterns, values):
        raise ValueError(reason)


def _check_together(asked: tuple[FilterRequest, ...]) -> None:
    """Errors: ValueError."""
    filters = each_filter(to_conditions(asked))
    if reason := too_much((item.op, item.values) for item in filters):
        raise ValueError(reason)


_One = Annotated[FilterRequest, Meta(extra_json_schema=_ONE_OF_TWO)]
Choices = Annotated[
    tuple[_One | Annotated[tuple[_One, ...], Meta(min_length=1)], ...],
    Meta(
        description="One of these must hold; an array stands for all of its filters. 8 levels at most.",
        min_length=1,
    ),
]
Filters = Annotated[
    tuple[_One, ...],
    Meta(
        description="All of these must hold; at most 100, counted with those inside `or`.",
        max_length=MAX_FILTERS,
    ),
    Rule(_check_size, first=True),
    Rule(_check_cost, first=True),
    Rule(_check_together),
]


class Filter(msgspec.Struct, frozen=True, tag="filter"):
    """One condition. `values`: none for the null tests, one or more for `in` and `not_in`, else exactly one.

    Values for a field of time are Unix milliseconds.
    """

    field: Field
    op: Op
    values: tuple[FilterValue, ...] = ()


class AnyOf(msgspec.Struct, frozen=True, tag="or"):
    """Holds where all the conditions of one of its elements hold. No element is empty, and there is one."""

    elements: tuple[tuple[Condition, ...], ...]


Condition = Filter | AnyOf


def each_filter(conditions: Iterable[Condition]) -> tuple[Filter, ...]:
    """The leaves of the tree, in order."""
    found: list[Filter] = []
    for condition in conditions:
        if isinstance(condition, Filter):
            found.append(condition)
        else:
            found += [leaf for element in condition.elements for leaf in each_filter(element)]
    return tuple(found)


def read_filters(value: object, problems: list[Problem], path: str = "$.filters") -> tuple[Condition, ...]:
    """The conditions in `value`, decoded JSON; what is wrong is added to `problems`."""
    found = find_problems(value, Filters, path)
    problems += found
    return () if found else to_conditions(convert(value, Filters))


def to_conditions(asked: Iterable[FilterRequest]) -> tuple[Condition, ...]:
    """What filters without problems mean."""
    return tuple(map(_condition, asked))


def _condition(asked: FilterRequest) -> Condition:
    if asked.or_ is not UNSET:
        elements = (one if isinstance(one, tuple) else (one,) for one in asked.or_)
        return AnyOf(tuple(map(to_conditions, elements)))
    if asked.field_name is UNSET or asked.op is UNSET:
        raise ValueError("the filter has problems")
    field, op = resolve(asked.field_name), asked.op
    if asked.value is UNSET:
        return Filter(field, op)
    values = asked.value if op in WITH_VALUES else [asked.value]
    return Filter(field, op, tuple(checked(value, field, op) for value in values))
