"""SeenFields -> the SELECTs that find event names, field names, and what is known of each. Pure.

The names of custom fields come from the structure of the stored column (`distinctJSONPathsAndTypes`), without
a look at values; then each is read as a column. So nothing is sampled: counts are exact.
Next reader: `app.analyse`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.fields import Field, Kind
from app.scope import Scope
from app.seen_fields import MAX_EXAMPLE_CHARACTERS, MAX_EXAMPLES, SeenFields
from app.sql_fields import column, element, elements, is_null, key, text_of_key
from app.sql_filters import asked, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import select

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


def to_details(request: SeenFields, scope: Scope, fields: Sequence[Field]) -> Statement:
    """One row: for each field how many events have it, how many as string, boolean, number, how many values
    (an estimate), the most frequent ones as JSON text, first and last time."""
    columns = [text for index, field in enumerate(fields) for text in _details(field, f"k{index}")]
    return _statement(request, scope, fields, columns)


def _details(field: Field, alias: str) -> Iterator[str]:
    has = f"NOT {is_null(field)}"
    yield f"countIf({has})"
    if field.kind is Kind.CUSTOM:
        string, flag, *numbers = (
            f"count({element(field, kind)})" for kind in ("String", "Bool", "Int64", "UInt64", "Float64")
        )
        yield f"[{string}, {flag}, {' + '.join(numbers)}]"
        value = key(field)
    else:
        yield f"[{f'0, countIf({has})' if field.kind is Kind.FLAG else f'countIf({has}), 0'}, 0]"
        value = column(field)
    yield f"uniq({value})"
    if field.kind is not Kind.FLAG:  # one character more than is shown, to tell what was cut
        value = f"leftUTF8({value}, {MAX_EXAMPLE_CHARACTERS + 1})"
    # A custom field's key says what it was; a column's value is what it is.
    text = text_of_key(field, alias) if field.kind is Kind.CUSTOM else f"toJSONString({alias})"
    yield f"arrayMap({alias} -> {text}, topK({MAX_EXAMPLES})({value}))"
    yield from _times(has)


def _times(condition: str) -> list[str]:
    return [f"toUnixTimestamp64Milli({function}If(event_time, {condition}))" for function in ("min", "max")]


def _statement(
    request: SeenFields, scope: Scope, fields: Sequence[Field], columns: Sequence[str], *clauses: str
) -> Statement:
    parameters = Parameters()
    conditions = where(scope, request.period, request.filters, parameters)
    named = elements((*fields, *asked(scope, request.filters)))
    return named + select(columns, "events", "WHERE", conditions, *clauses), parameters.values
