"""SeenFields -> the SELECTs that find event names, field names, and what is known of each. Pure.

The names of custom fields come from the structure of the stored column (`distinctJSONPathsAndTypes`), without
a look at values; then each is read as a column. So nothing is sampled: counts are exact.
Next reader: `app.analyse`, which runs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from app.fields import Field, Kind
from app.scope import Scope
from app.seen_fields import MAX_EXAMPLE_CHARACTERS, MAX_EXAMPLES, SeenFields
from app.sql_fields import NO_STRING, column, elements, key_of_types, text_of_key
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import inside, select

MAX_NAMES = 10_000  # more than a project can have at a time; names that were freed may still be stored
FIELDS_AT_ONCE = 40
Statement = tuple[str, dict[str, Parameter]]


def to_names(request: SeenFields, scope: Scope) -> Statement:
    """Rows: event name, events, first and last time; the most frequent first."""
    order = f"GROUP BY event_name ORDER BY events DESC, event_name LIMIT {MAX_NAMES}"
    return _statement(request, scope, (), ["event_name", "count() AS events", *_times("1")], order)


def to_paths(request: SeenFields, scope: Scope) -> Statement:
    """One row: the custom fields, each with its types in the store."""
    return _statement(request, scope, (), ["distinctJSONPathsAndTypes(fields)"])


def to_details(
    request: SeenFields, scope: Scope, fields: Sequence[Field], types: Mapping[str, Collection[str]]
) -> Statement:
    """One row: for each field how many events have it, how many as string, boolean, array, how many values
    (an estimate), the most frequent ones as JSON text, first and last time. `types`: what the statement for
    paths said."""
    values = [f"{_value(field, types)} AS v{index}" for index, field in enumerate(fields)]
    sql, parameters = _statement(request, scope, fields, ["event_time", *values])
    columns = [text for index, field in enumerate(fields) for text in _details(field, f"v{index}")]
    return select(columns, inside(sql)), parameters


def _value(field: Field, types: Mapping[str, Collection[str]]) -> str:
    return key_of_types(field, types[field.name]) if field.kind is Kind.CUSTOM else column(field)


def _details(field: Field, value: str) -> Iterator[str]:
    """Of what was read once: a column's value, or a custom field's key, which says what it was."""
    has = f"isNotNull({value})"
    yield f"countIf({has})"
    yield f"[{', '.join(_types(field, value))}]"
    yield f"uniq({value})"
    # One character more than is shown, to tell what was cut.
    shown = value if field.kind is Kind.FLAG else f"leftUTF8({value}, {MAX_EXAMPLE_CHARACTERS + 1})"
    text = text_of_key(field, "x") if field.kind is Kind.CUSTOM else "toJSONString(x)"
    yield f"arrayMap(x -> {text}, topK({MAX_EXAMPLES})({shown}))"
    yield from _times(has)


def _types(field: Field, value: str) -> tuple[str, str, str]:
    """Strings, booleans, arrays."""
    if field.kind is not Kind.CUSTOM:
        return ("0", f"count({value})", "0") if field.kind is Kind.FLAG else (f"count({value})", "0", "0")
    return (
        f"countIf(NOT startsWith({value}, {NO_STRING}))",
        f"countIf({value} IN (concat({NO_STRING}, 'true'), concat({NO_STRING}, 'false')))",
        f"countIf(startsWith({value}, concat({NO_STRING}, '[')))",
    )


def _times(condition: str) -> list[str]:
    return [f"toUnixTimestamp64Milli({function}If(event_time, {condition}))" for function in ("min", "max")]


def _statement(
    request: SeenFields, scope: Scope, fields: Sequence[Field], columns: Sequence[str], *clauses: str
) -> Statement:
    parameters = Parameters()
    conditions = where(scope, request.period, request.filters, parameters)
    named = elements((*fields, *asked(scope, request.filters)))
    return named + select(columns, "events", "WHERE", conditions, *clauses), parameters.values
