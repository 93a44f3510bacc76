"""The operators of filters, and which values each takes for which kind of field. Pure.

Type-strict: a value keeps its JSON type, and only values of that type can match it. Where a field has one
type (a column), a value of another type is refused, since it could never match. What an operator means is
`app.sql_conditions`' business.
Next reader: `app.filters`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import re2
from msgspec import UNSET

from app.event import MAX_INTEGER, MIN_INTEGER
from app.fields import Field, Kind
from app.timestamp import parse_timestamp

MAX_VALUES = 1000  # of one `in`
MAX_TEXT_BYTES = 8192  # no stored string is longer
MAX_PATTERN_BYTES = 1000
MAX_PROGRAM_BYTES = 1 << 20  # of a compiled pattern: a few characters can make a large program
MAX_PATTERNS = 10  # in a query: each may take megabytes of the store
# Values travel to the store in the address of a request, of which the client library sends no more than
# 65,536 characters; the rest is for settings.
MAX_WIRE_BYTES = 57_344
_QUOTE_BYTES = 9  # two quotes and a comma, percent-encoded
_TOO_LONG = f"all values together may have at most {MAX_WIRE_BYTES} bytes, percent-encoded"
_ESCAPED = {ord(character): "\\" * 4 for character in "\\'\t\n\r\b\f\0"}

FilterValue = str | int | float | bool


class Op(enum.Enum):
    """The operators."""

    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    GREATER_THAN = "greater_than"
    GREATER_THAN_OR_EQUALS = "greater_than_or_equals"
    LESS_THAN = "less_than"
    LESS_THAN_OR_EQUALS = "less_than_or_equals"
    IN = "in"
    NOT_IN = "not_in"
    CONTAINS = "contains"
    NOT_CONTAINS = "not_contains"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    MATCHES = "matches"
    IS_NULL = "is_null"
    IS_NOT_NULL = "is_not_null"


# What holds for an event exactly where the other does not, also where the event has no value.
OPPOSITES = {Op.NOT_EQUALS: Op.EQUALS, Op.NOT_IN: Op.IN, Op.NOT_CONTAINS: Op.CONTAINS}
WITHOUT_VALUE = frozenset((Op.IS_NULL, Op.IS_NOT_NULL))
WITH_VALUES = frozenset((Op.IN, Op.NOT_IN))
COMPARISONS = frozenset((Op.GREATER_THAN, Op.GREATER_THAN_OR_EQUALS, Op.LESS_THAN, Op.LESS_THAN_OR_EQUALS))
CONTAINMENTS = frozenset((Op.CONTAINS, Op.NOT_CONTAINS))
OF_STRINGS = frozenset((Op.STARTS_WITH, Op.ENDS_WITH, Op.MATCHES))


def broken_rules(value: object, field: Field, op: Op) -> Iterator[tuple[str, str]]:
    """What is wrong with `value`, UNSET where the filter has none: paths from it, and messages."""
    if op in WITHOUT_VALUE:
        if value is not UNSET:
            yield "", f"{op.value} takes no value"
    elif value is UNSET:
        yield "", "required for this op"
    elif op not in WITH_VALUES:
        yield from _wrong(value, field, op, "")
    elif not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
        yield "", f"{op.value} takes an array of 1 to {MAX_VALUES} values"
    else:
        for index, one in enumerate(value):
            yield from _wrong(one, field, op, f"[{index}]")


def _wrong(value: object, field: Field, op: Op, path: str) -> Iterator[tuple[str, str]]:
    try:
        checked(value, field, op)
    except ValueError as error:
        yield path, str(error)


def too_many(patterns: int, values: int) -> str:
    """Why the store could not take so many, whatever they are, or ""."""
    if patterns > MAX_PATTERNS:
        return f"at most {MAX_PATTERNS} filters with matches; join patterns with |"
    if values * _QUOTE_BYTES > MAX_WIRE_BYTES:
        return _TOO_LONG
    return ""


def too_much(asked: Iterable[tuple[Op, tuple[FilterValue, ...]]]) -> str:
    """Why the store could not take all of these operators and values together, or ""."""
    asked = list(asked)
    patterns = sum(op is Op.MATCHES for op, _ in asked)
    if reason := too_many(patterns, sum(len(values) for _, values in asked)):
        return reason
    if sum(_wire_bytes(value) for _, values in asked for value in values) > MAX_WIRE_BYTES:
        return _TOO_LONG
    return ""


def _wire_bytes(value: FilterValue) -> int:
    """An upper bound of what `value` takes in an address."""
    if isinstance(value, str):
        return len(quote(value.translate(_ESCAPED), safe="")) + _QUOTE_BYTES
    return 2 * (len(str(value)) + _QUOTE_BYTES)  # as an integer and as a float


def checked(value: object, field: Field, op: Op) -> FilterValue:
    """`value` as the store compares it. Errors: ValueError with a sentence for the client."""
    if value is None:
        raise ValueError("null equals nothing; use the op is_null or is_not_null")
    if not isinstance(value, str | int | float):
        raise ValueError(
            "expected a string, number or boolean; arrays are searched with contains, and objects by the "
            "names of their members (parent.child)"
        )
    if isinstance(value, bool) and op in COMPARISONS:
        raise ValueError("booleans have no order; use equals")
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("integers beyond 64 bits are not kept exactly; write it with an exponent")
    if isinstance(value, str):
        if len(value.encode()) > MAX_TEXT_BYTES:
            raise ValueError(f"a string may have at most {MAX_TEXT_BYTES} bytes")
    elif op in OF_STRINGS:
        raise ValueError(f"{op.value} looks at strings; expected a string")
    if op is Op.MATCHES:
        compiled(str(value))
    return value if field.kind is Kind.CUSTOM else _of_column(value, field, op)


def _of_column(value: FilterValue, field: Field, op: Op) -> FilterValue:
    if field.kind is Kind.TEXT:
        if isinstance(value, str):
            return value
        raise ValueError(f'"{field.name}" holds strings; expected a string')
    if op in OF_STRINGS or op in CONTAINMENTS:
        raise ValueError(f'{op.value} looks at strings and arrays, and "{field.name}" never holds one')
    if field.kind is Kind.FLAG:
        if isinstance(value, bool):
            return value
        raise ValueError(f'"{field.name}" is compared with true or false, by equals, not_equals and in')
    if isinstance(value, str):
        return parse_timestamp(value)
    raise ValueError(f'"{field.name}" is compared with timestamps as strings')


def compiled(pattern: str) -> re2._Regexp:
    """`pattern` as the store reads it: `.` matches line breaks too. Errors: ValueError with RE2's reason."""
    if len(pattern.encode()) > MAX_PATTERN_BYTES:
        raise ValueError(f"a pattern may have at most {MAX_PATTERN_BYTES} bytes")
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = MAX_PROGRAM_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "no reason given"
        raise ValueError(f"not a regular expression that RE2 takes: {reason[:200]}") from None
