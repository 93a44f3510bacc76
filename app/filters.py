"""The filters of a query: JSON -> a tree of conditions. Pure.

A list of filters holds where all of them hold; `{"or": [...]}` holds where one of its elements does, and an
element is a filter, a list of filters or another `or`. There is no `not`: each operator has its opposite.
What values a filter takes is `app.operators`' business, its meaning `app.sql_filters`'.
Next reader: `app.query`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from app.errors import Problem
from app.fields import Field, resolve, unknown
from app.operators import FilterValue, Op, read_values, too_much

MAX_FILTERS = 100  # in the whole tree
MAX_DEPTH = 8  # of `or` in `or`

Word = TypeVar("Word")
_OPS = {op.value: op for op in Op}
_MEMBERS = ("field_name", "op", "value")


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
    """The conditions in `value`, the request's `filters`; what is wrong is added to `problems`."""
    if not isinstance(value, list):
        problems.append(Problem(path, "expected an array of objects"))
        return ()
    conditions = _all_of(value, path, 0, problems)
    filters = each_filter(conditions)
    if len(filters) > MAX_FILTERS:
        problems.append(Problem(path, f"at most {MAX_FILTERS} filters; this query has {len(filters)}"))
    elif reason := too_much((item.op, item.values) for item in filters):
        problems.append(Problem(path, reason))
    return conditions


def _all_of(items: list[object], path: str, depth: int, problems: list[Problem]) -> tuple[Condition, ...]:
    found: list[Condition] = []
    for index, item in enumerate(items):
        if len(found) > MAX_FILTERS:  # enough to say that there are too many
            break
        condition = _condition(item, f"{path}[{index}]", depth, problems)
        if condition is not None:
            found.append(condition)
    return tuple(found)


def _condition(item: object, path: str, depth: int, problems: list[Problem]) -> Condition | None:
    if not isinstance(item, dict):
        problems.append(
            Problem(path, 'expected an object with "field_name", "op" and "value", or {"or": […]}')
        )
        return None
    return _any_of(item, path, depth + 1, problems) if "or" in item else _filter(item, path, problems)


def _any_of(item: dict[str, object], path: str, depth: int, problems: list[Problem]) -> AnyOf | None:
    for name in item:
        if name != "or":
            problems.append(Problem(f"{path}.{name}"[:200], '"or" stands alone; put other filters beside it'))
    path, choices = f"{path}.or", item["or"]
    if depth > MAX_DEPTH:
        problems.append(Problem(path, f"at most {MAX_DEPTH} levels of or"))
        return None
    if not isinstance(choices, list) or not 0 < len(choices) <= MAX_FILTERS:
        problems.append(
            Problem(path, f"expected an array of 1 to {MAX_FILTERS} filters or arrays of filters")
        )
        return None
    elements: list[tuple[Condition, ...]] = []
    for index, choice in enumerate(choices):
        here = f"{path}[{index}]"
        if choice == []:
            problems.append(Problem(here, "an empty array would hold for every event; leave it out"))
        elif isinstance(choice, list):
            elements.append(_all_of(choice, here, depth, problems))
        elif (condition := _condition(choice, here, depth, problems)) is not None:
            elements.append((condition,))
    return AnyOf(tuple(elements))


def _filter(item: dict[str, object], path: str, problems: list[Problem]) -> Filter | None:
    before = len(problems)
    for name in item:
        if name not in _MEMBERS:
            problems.append(Problem(f"{path}.{name}"[:200], unknown("member", str(name), _MEMBERS)))
    field = read_field(item.get("field_name"), f"{path}.field_name", problems)
    op = read_word(item.get("op"), "op", _OPS, (), path=f"{path}.op", problems=problems)
    if field is None or op is None:
        return None
    values = read_values(item, field, op, f"{path}.value", problems)
    return Filter(field, op, values) if len(problems) == before else None


def read_field(name: object, path: str, problems: list[Problem]) -> Field | None:
    """The field that `name` stands for, or None and a problem."""
    if not isinstance(name, str):
        problems.append(Problem(path, "required: the name of a field"))
        return None
    try:
        return resolve(name)
    except ValueError as error:
        problems.append(Problem(path, str(error)))
        return None


def read_word(
    word: object,
    what: str,
    known: dict[str, Word],
    later: tuple[str, ...],
    *,
    path: str,
    problems: list[Problem],
) -> Word | None:
    """The member of a closed list that `word` names, or None and a problem."""
    if not isinstance(word, str):
        problems.append(Problem(path, f"required: one of {', '.join(known)}"))
        return None
    if word not in known:
        problems.append(Problem(path, unknown(what, word, known, later)))
    return known.get(word)
