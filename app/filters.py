"""The filters of a query: JSON -> conditions of one field each, with values of one type each. Pure.

Type-strict: a value keeps its JSON type, and only values of that type can match it. Where a field has one
type (a column), a value of another type is refused, since it could never match.
Next reader: `app.query`, which joins the conditions.
"""

from __future__ import annotations

import enum
from typing import TypeVar
from urllib.parse import quote

import msgspec

from app.errors import Problem
from app.event import MAX_INTEGER, MIN_INTEGER
from app.fields import Field, Kind, resolve, unknown
from app.timestamp import parse_timestamp

MAX_FILTERS = 100
MAX_VALUES = 1000  # of one `in`
MAX_TEXT_BYTES = 8192  # no stored string is longer
# Values travel to the store in the address of a request, of which the client library sends no more than
# 65,536 characters; the rest is for settings.
MAX_WIRE_BYTES = 57_344
_QUOTE_BYTES = 9  # two quotes and a comma, percent-encoded

Word = TypeVar("Word")
FilterValue = str | int | float | bool


class Op(enum.Enum):
    """The operators; `app.sql` gives each its meaning."""

    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    GREATER_THAN = "greater_than"
    GREATER_THAN_OR_EQUALS = "greater_than_or_equals"
    LESS_THAN = "less_than"
    LESS_THAN_OR_EQUALS = "less_than_or_equals"
    IN = "in"
    IS_NULL = "is_null"
    IS_NOT_NULL = "is_not_null"


COMPARISONS = frozenset((Op.GREATER_THAN, Op.GREATER_THAN_OR_EQUALS, Op.LESS_THAN, Op.LESS_THAN_OR_EQUALS))
_WITHOUT_VALUE = frozenset((Op.IS_NULL, Op.IS_NOT_NULL))
_OPS = {op.value: op for op in Op}
_LATER_OPS = ("not_in", "contains", "not_contains", "starts_with", "ends_with", "matches")
_MEMBERS = ("field_name", "op", "value")
_ESCAPED = {ord(character): "\\" * 4 for character in "\\'\t\n\r\b\f\0"}


class Filter(msgspec.Struct, frozen=True):
    """One condition. `values`: none for the null tests, one or more for `in`, else exactly one.

    Values for a field of time are Unix milliseconds.
    """

    field: Field
    op: Op
    values: tuple[FilterValue, ...] = ()


def read_filters(value: object, problems: list[Problem]) -> tuple[Filter, ...]:
    """The conditions in `value`, the request's `filters`; what is wrong is added to `problems`."""
    if not isinstance(value, list):
        problems.append(Problem("$.filters", "expected an array of objects"))
        return ()
    if len(value) > MAX_FILTERS:
        problems.append(Problem("$.filters", f"at most {MAX_FILTERS} filters; this query has {len(value)}"))
        return ()
    found = [_filter(item, f"$.filters[{index}]", problems) for index, item in enumerate(value)]
    filters = tuple(item for item in found if item is not None)
    if sum(_wire_bytes(one) for item in filters for one in item.values) > MAX_WIRE_BYTES:
        problems.append(
            Problem(
                "$.filters", f"all values together may have at most {MAX_WIRE_BYTES} bytes, percent-encoded"
            )
        )
    return filters


def _filter(item: object, path: str, problems: list[Problem]) -> Filter | None:
    if not isinstance(item, dict):
        problems.append(Problem(path, 'expected an object with "field_name", "op" and "value"'))
        return None
    if "or" in item:
        problems.append(Problem(f"{path}.or", '"or" is not supported yet; filters are joined by AND'))
        return None
    before = len(problems)
    for name in item:
        if name not in _MEMBERS:
            problems.append(Problem(f"{path}.{name}"[:200], unknown("member", str(name), _MEMBERS)))
    field = read_field(item.get("field_name"), f"{path}.field_name", problems)
    op = read_word(item.get("op"), "op", _OPS, _LATER_OPS, path=f"{path}.op", problems=problems)
    if field is None or op is None:
        return None
    values = _values(item, field, op, f"{path}.value", problems)
    return Filter(field, op, values) if len(problems) == before else None


def _wire_bytes(value: FilterValue) -> int:
    """An upper bound of what `value` takes in an address."""
    if isinstance(value, str):
        return len(quote(value.translate(_ESCAPED), safe="")) + _QUOTE_BYTES
    return 2 * (len(str(value)) + _QUOTE_BYTES)  # as an integer and as a float


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


def _values(
    item: dict[str, object], field: Field, op: Op, path: str, problems: list[Problem]
) -> tuple[FilterValue, ...]:
    if op in _WITHOUT_VALUE:
        if "value" in item:
            problems.append(Problem(path, f"{op.value} takes no value"))
        return ()
    if "value" not in item:
        problems.append(Problem(path, "required for this op"))
        return ()
    value = item["value"]
    if op is not Op.IN:
        return _checked([value], field, op, [path], problems)
    if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
        problems.append(Problem(path, f"in takes an array of 1 to {MAX_VALUES} values"))
        return ()
    return _checked(value, field, op, [f"{path}[{index}]" for index in range(len(value))], problems)


def _checked(
    values: list[object], field: Field, op: Op, paths: list[str], problems: list[Problem]
) -> tuple[FilterValue, ...]:
    checked: list[FilterValue] = []
    for value, path in zip(values, paths, strict=True):
        try:
            checked.append(_value(value, field, op))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return tuple(checked)


def _value(value: object, field: Field, op: Op) -> FilterValue:
    """`value` as the store compares it. Errors: ValueError with a sentence for the client."""
    if value is None:
        raise ValueError("null equals nothing; use the op is_null or is_not_null")
    if not isinstance(value, str | int | float):
        raise ValueError("expected a string, number or boolean; arrays and objects cannot be compared")
    if isinstance(value, bool) and (op in COMPARISONS or field.kind not in (Kind.FLAG, Kind.CUSTOM)):
        raise ValueError("booleans have no order; use equals" if op in COMPARISONS else _wanted(field))
    if isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"a string may have at most {MAX_TEXT_BYTES} bytes")
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("integers beyond 64 bits are not kept exactly; write it with an exponent")
    if field.kind is Kind.CUSTOM:
        return value
    if field.kind is Kind.FLAG:
        if op in COMPARISONS or not isinstance(value, bool):
            raise ValueError(_wanted(field))
        return value
    if not isinstance(value, str):
        raise ValueError(_wanted(field))
    return parse_timestamp(value) if field.kind is Kind.TIME else value


def _wanted(field: Field) -> str:
    wanted = {Kind.TIME: "timestamps as strings", Kind.FLAG: "true or false, for equals, not_equals and in"}
    return f'"{field.name}" is compared with {wanted.get(field.kind, "strings")}'
