"""Rows of the store -> the answer of a query: JSON, NDJSON or CSV. Pure.

Cells arrive as JSON text (see `app.sql`), so they are copied into the answer unparsed and every number
keeps all of its digits. A raw event is the client's own body, member by member as it came, with the
envelope's values laid over it.
Next reader: `app.read`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo

import msgspec
from msgspec import UNSET, UnsetType

from app import cursor, formats
from app.cursor import Position
from app.errors import ApiError, Kind
from app.formats import Accepted, Cell, Format
from app.query import Query
from app.sql import Output, Statement
from app.time_period import Period, read_zone
from app.timestamp import format_timestamp

MAX_CSV_CELLS = 64 * 1024 * 1024  # each is a comma at least
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


class ShownPeriod(msgspec.Struct, frozen=True):
    """ISO 8601 in UTC; `end` is not included. Sent back as a `time_period` it means the same stretch."""

    start: str
    end: str


class Answer(msgspec.Struct, frozen=True):
    """`fresh_as_of`: Unix milliseconds up to which every event that reached the stream is counted. `next`: of
    raw events, the cursor of the page that follows, None behind the last one."""

    data: list[dict[str, Cell]]
    row_count: int
    time_period: ShownPeriod
    elapsed_ms: float
    fresh_as_of: int
    next: str | UnsetType | None = UNSET


class Rendered(msgspec.Struct, frozen=True):
    """The answer as it is sent. `headers` tell beside CSV and NDJSON what stands in JSON beside `data`."""

    content: bytes
    content_type: str
    headers: dict[str, str]


def data(query: Query, statement: Statement, rows: Sequence[Sequence[object]]) -> list[dict[str, Cell]]:
    """What the answer's `data` holds."""
    if query.is_raw:
        return [_event(statement.outputs, row) for row in rows[: query.limit]]
    zone = read_zone(query.timezone)
    return [_group(statement.outputs, row, zone) for row in rows]


def render(
    query: Query,
    statement: Statement,
    rows: Sequence[Sequence[object]],
    *,
    elapsed_ms: float,
    fresh_as_of: int,
    accepted: Accepted = formats.JSON,
) -> Rendered:
    """The answer to `query`, whose `statement` returned `rows`. Errors: ApiError beyond MAX_CSV_CELLS."""
    found, period = data(query, statement, rows), show(query.period)
    following = next_of(query, statement.outputs, rows)
    if accepted.format is Format.JSON:
        answer = Answer(
            *([], len(found), period, round(elapsed_ms, 3), fresh_as_of),
            next=following if query.is_raw else UNSET,
        )
        return Rendered(_encode(answer, found), accepted.content_type, {})
    headers = {
        "x-eventbunker-fresh-as-of": str(fresh_as_of),
        "x-eventbunker-row-count": str(len(found)),
        "x-eventbunker-time-period": f"{period.start}/{period.end}",
    }
    if following is not None:
        headers["x-eventbunker-next"] = following
    # Beside what `app.gate` lets the scripts of other origins read of every answer.
    headers["access-control-expose-headers"] = ", ".join([*headers, "content-disposition"])
    if accepted.format is Format.NDJSON:
        return Rendered(formats.ndjson(found), accepted.content_type, headers)
    names = formats.columns((output.name for output in statement.outputs), found)
    if len(names) * len(found) > MAX_CSV_CELLS:
        size = f"{len(found):,} rows of {len(names):,} columns"
        raise ApiError(Kind.QUERY_TOO_EXPENSIVE, f"As CSV this answer has {size}; take JSON, or fewer rows.")
    content = formats.csv(names, found, escapes_formulas=accepted.escapes_formulas)
    headers["content-disposition"] = 'attachment; filename="eventbunker.csv"'
    return Rendered(content, accepted.content_type, headers)


def next_of(query: Query, outputs: Sequence[Output], rows: Sequence[Sequence[object]]) -> str | None:
    """The cursor behind the last row that is shown, where there are more."""
    if not query.is_paged or len(rows) <= query.limit:
        return None
    last = {output.name: value for output, value in zip(outputs, rows[query.limit - 1], strict=False)}
    after = msgspec.convert([last[name] for name in Position.__struct_fields__], Position)
    return cursor.write(query.digest, query.period, after)


def show(period: Period) -> ShownPeriod:
    return ShownPeriod(format_timestamp(period.start_ms), format_timestamp(period.end_ms))


def _encode(answer: Answer, rows: list[dict[str, Cell]]) -> bytes:
    """`answer` with `rows` as its data, each encoded in a step of its own: the encoder keeps the interpreter
    to itself, and in one step 64 MiB would hold up the loop as long as they take."""
    begin = b'{"data":['
    about = _ENCODER.encode(answer)
    return b"%b%b%b" % (begin, b",".join(map(_ENCODER.encode, rows)), about.removeprefix(begin))


def _group(outputs: Sequence[Output], row: Sequence[object], zone: tzinfo) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for output, text in zip(outputs, row, strict=True):
        if not isinstance(text, str):
            cells[output.name] = None
        elif output.zoned:
            cells[output.name] = zoned(int(text), zone)
        elif output.is_time:
            cells[output.name] = format_timestamp(int(text))
        else:
            cells[output.name] = msgspec.Raw(text.encode())
    return cells


def zoned(moment_ms: int, zone: tzinfo) -> str:
    """ISO 8601 with the zone's own offset at that moment, `Z` for UTC."""
    # Not by adding a timedelta: that forgets which of an hour that comes twice it is.
    moment = datetime.fromtimestamp(moment_ms // 1000, zone).replace(microsecond=moment_ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(outputs: Sequence[Output], row: Sequence[object]) -> dict[str, Cell]:
    *values, body = row
    event: dict[str, Cell] = dict(_BODY.decode(str(body)))
    for output, value in zip(outputs, values, strict=True):
        # The answer to the post named `time_recorded` in Unix milliseconds: the same here.
        if output.is_time and output.name != "time_recorded" and isinstance(value, int):
            event[output.name] = format_timestamp(value)
        elif value is None or isinstance(value, str | int):
            event[output.name] = value
    return event
