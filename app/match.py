"""Does an event fulfil a query's filters? The second evaluation of the language, on one event in memory.

For events that the store does not hold yet: what the tail shows, and what an erasure finds in streams, spools
and dead letters. It means what the SQL of `app.sql_filters` means, and tests/test_match.py holds the two
together on the real engine. An event here is one as a query shows it: the client's body, decoded, with the
envelope's values laid over it, times in Unix milliseconds, None for what is unknown.
Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.fields import Field, Kind
from app.filters import Condition, Filter
from app.operators import OPPOSITES, FilterValue, Op, compiled

Event = Mapping[str, object]
Test = Callable[[Event], bool]
Predicate = Callable[[object], bool]


def matcher(conditions: Sequence[Condition]) -> Test:
    """A function that is true of an event for which every one of `conditions` holds; of all without any.

    It is worth keeping: the conditions are taken apart once, here.
    """
    tests = [_test(one) for one in conditions]
    if not tests:
        return lambda _event: True
    if len(tests) == 1:
        return tests[0]
    return lambda event: all(test(event) for test in tests)


def _test(condition: Condition) -> Test:
    if not isinstance(condition, Filter):
        choices = [matcher(element) for element in condition.elements]
        return lambda event: any(choice(event) for choice in choices)
    read, holds = _reader(condition.field), _predicate(condition.op, condition.values)
    return lambda event: holds(read(event))


def _reader(field: Field) -> Callable[[Event], object]:
    """How the value of `field` is found; None where it is missing, null or an object."""
    name = field.name
    parent, _, child = name.partition(".")
    if field.kind is not Kind.CUSTOM:
        return lambda event: event.get(name)
    return _nested(parent, child) if child else _own(name)


def _own(name: str) -> Callable[[Event], object]:
    def read(event: Event) -> object:
        value = event.get(name)
        return None if isinstance(value, dict) else value

    return read


def _nested(parent: str, child: str) -> Callable[[Event], object]:
    def read(event: Event) -> object:
        inside = event.get(parent)
        return inside.get(child) if isinstance(inside, dict) else None

    return read


def _predicate(op: Op, values: tuple[FilterValue, ...]) -> Predicate:
    if op in OPPOSITES:
        holds = _predicate(OPPOSITES[op], values)
        return lambda value: not holds(value)
    if op is Op.IS_NULL:
        return lambda value: value is None
    if op is Op.IS_NOT_NULL:
        return lambda value: value is not None
    if op in (Op.EQUALS, Op.IN):
        wanted = frozenset(map(_key, values))
        return lambda value: _key(value) in wanted
    if op is Op.CONTAINS:
        return _contains(values[0])
    if op is Op.MATCHES:
        found = compiled(str(values[0])).search
        return lambda value: isinstance(value, str) and found(value) is not None
    return _comparison(_COMPARISONS[op], values[0])


def _comparison(holds: Callable[[Any, Any], bool], bound: FilterValue) -> Predicate:
    """Strings among strings, by code points, which is the order of their bytes; numbers among numbers."""
    if isinstance(bound, str):
        return lambda value: isinstance(value, str) and holds(value, bound)
    return lambda value: _is_number(value) and holds(value, bound)


# Python compares integers with floats exactly, as the engine does.
_COMPARISONS: dict[Op, Callable[[Any, Any], bool]] = {
    Op.GREATER_THAN: operator.gt,
    Op.GREATER_THAN_OR_EQUALS: operator.ge,
    Op.LESS_THAN: operator.lt,
    Op.LESS_THAN_OR_EQUALS: operator.le,
    Op.STARTS_WITH: str.startswith,
    Op.ENDS_WITH: str.endswith,
}


def _contains(wanted: FilterValue) -> Predicate:
    """A string in a string, or a value in an array, whose numbers are floats."""
    key = _item(wanted)

    def holds(value: object) -> bool:
        if isinstance(value, list):
            return any(_item(one) == key for one in value)
        return isinstance(value, str) and isinstance(wanted, str) and wanted in value

    return holds


def _item(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else _key(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: object) -> object:
    """A stand-in that is equal for values that the language calls equal: 1 and 1.0, not 1, "1" and true."""
    if isinstance(value, bool):
        return "true" if value else "false", None
    return None if isinstance(value, list | dict) else value
