"""Which event names and fields there are: types, counts, examples. Request and answer; pure.

A field is what a query can name: one of the contract's own (`predefined`), one that is derived from the
request (`derived`), or the client's (`custom`). Listed is what at least one of the events has.
Next reader: `app.sql_seen_fields`, which asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.analysis import About, EventName, read_analysis, to_events
from app.event import PREDEFINED_STRINGS
from app.fields import COLUMNS, Field, Kind, resolve
from app.filters import Condition
from app.query_request import PeriodRequest
from app.time_period import Period
from app.timestamp import format_timestamp

DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET = 200, 1000, 100_000
MAX_EXAMPLES, MAX_EXAMPLE_CHARACTERS = 3, 100

# Every event has the others, each its own.
COLUMN_FIELDS = tuple(
    field
    for name, field in COLUMNS.items()
    if field.kind is not Kind.TIME and name not in ("project_id", "unique_req_id")
)
_PREDEFINED = frozenset(("event_name", "customer_identifier", "event_id", *PREDEFINED_STRINGS))
_JSON = msgspec.json.Decoder()


class FieldsRequest(PeriodRequest, frozen=True, kw_only=True):
    """Which event names and fields there are."""

    event_name: EventName | UnsetType = UNSET
    limit: Annotated[
        int,
        Meta(
            description="The largest number of custom fields, in the order of their names.",
            ge=1,
            le=MAX_LIMIT,
        ),
    ] = DEFAULT_LIMIT
    offset: Annotated[
        int, Meta(description="Custom fields to leave out at the beginning.", ge=0, le=MAX_OFFSET)
    ] = 0


class SeenFields(msgspec.Struct, frozen=True):
    """A checked request."""

    period: Period
    filters: tuple[Condition, ...]
    limit: int
    offset: int


class SeenName(msgspec.Struct, frozen=True):
    """An event name: how often, and when first and last (ISO 8601 in UTC)."""

    event_name: str
    count: int
    first_seen: str
    last_seen: str


class SeenField(msgspec.Struct, frozen=True):
    """`count`: events that have it; `types`: how many of which type. `distinct` is an estimate."""

    field_name: str
    origin: Literal["predefined", "derived", "custom"]
    count: int
    types: dict[str, int]
    distinct: int
    examples: list[msgspec.Raw]
    first_seen: str
    last_seen: str


class FieldsAnswer(About, frozen=True, kw_only=True):
    """`custom_field_count`: how many there are, of which `fields` has a page."""

    event_names: list[SeenName]
    fields: list[SeenField]
    custom_field_count: int


def read_seen_fields(body: bytes, now_ms: int) -> SeenFields:
    """The request in `body`. Errors: ApiError 400 that names every problem."""
    asked, period = read_analysis(body, FieldsRequest, now_ms)
    return SeenFields(period, to_events(asked), asked.limit, asked.offset)


def seen_names(rows: Sequence[Sequence[Any]]) -> list[SeenName]:
    """What the statement for names returned."""
    return [
        SeenName(name, count, format_timestamp(first), format_timestamp(last))
        for name, count, first, last in rows
    ]


def custom_fields(paths: Mapping[str, object]) -> list[Field]:
    """The custom fields of these paths, by name."""
    fields = []
    for name in sorted(paths):
        try:
            field = resolve(name)
        except ValueError:  # stored past the rules of an edge: no query could name it
            continue
        if field.kind is Kind.CUSTOM:
            fields.append(field)
    return fields


def seen_fields(fields: Sequence[Field], row: Sequence[Any]) -> Iterator[SeenField]:
    """What the statement for `fields` returned: six columns for each."""
    for index, field in enumerate(fields):
        count, counts, distinct, examples, first, last = row[index * 6 : index * 6 + 6]
        if not count:
            continue
        strings, flags, arrays = counts
        numbers = count - strings - flags - arrays
        types = {"string": strings, "number": numbers, "boolean": flags, "array": arrays}
        yield SeenField(
            field_name=field.name,
            origin=_origin(field),
            count=count,
            types={name: number for name, number in types.items() if number},
            distinct=distinct,
            examples=[_example(text) for text in examples],
            first_seen=format_timestamp(first),
            last_seen=format_timestamp(last),
        )


def _origin(field: Field) -> Literal["predefined", "derived", "custom"]:
    if field.kind is Kind.CUSTOM:
        return "custom"
    return "predefined" if field.name in _PREDEFINED else "derived"


def _example(text: str) -> msgspec.Raw:
    """JSON text of a value, or of its beginning: then a string that ends with `…`."""
    try:
        value = _JSON.decode(text)
    except msgspec.DecodeError:
        return msgspec.Raw(msgspec.json.encode(text + "…"))  # the beginning of an array
    if isinstance(value, str) and len(value) > MAX_EXAMPLE_CHARACTERS:
        return msgspec.Raw(msgspec.json.encode(value[:MAX_EXAMPLE_CHARACTERS] + "…"))
    return msgspec.Raw(text.encode())
