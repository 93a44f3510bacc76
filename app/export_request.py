"""The body of POST /v1/export -> an Export, or every problem. Pure.

Period and filters are those of a query (`app.time_period`, `app.filters`).
Next reader: `app.export_sql`.
"""

from __future__ import annotations

import enum

import msgspec

from app.errors import Problem, invalid_body
from app.event import has_repeated_name
from app.fields import unknown
from app.filters import Condition, read_filters, read_word
from app.time_period import Period, read_period, read_zone


class Format(enum.Enum):
    """What is written, and by which Accept it can be asked for."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


class Compression(enum.Enum):
    """How the stream is encoded; Parquet compresses by itself."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Export(msgspec.Struct, frozen=True):
    """Which events, and how they are written. `escapes_formulas`: as in `app.formats`."""

    period: Period
    filters: tuple[Condition, ...]
    format: Format
    compression: Compression
    escapes_formulas: bool = False


MEDIA_TYPES = {
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
}
_ACCEPTED = {
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
    "text/csv": Format.CSV,
    "application/vnd.apache.parquet": Format.PARQUET,
}
FORMULAS = "text/csv;formulas=escaped"
_MEMBERS = ("time_period", "timezone", "filters", "format", "compression")
_FORMATS = {one.value: one for one in Format}
_COMPRESSIONS = {one.value: one for one in Compression}


def read_export(body: bytes, accept: str, now_ms: int) -> Export:
    """The export that `body` asks for at `now_ms` (Unix milliseconds); `accept` is the header's value.

    Errors: ApiError 400 that names every problem found.
    """
    problems: list[Problem] = []
    request = _decode(body)
    for name in request:
        if name not in _MEMBERS:
            problems.append(Problem(f"$.{name}"[:200], unknown("member", name, _MEMBERS)))
    period = _period(request, now_ms, problems)
    filters = read_filters(request.get("filters", []), problems)
    chosen = _format(request, accept, problems)
    compression = read_word(
        request.get("compression", "none"),
        "compression",
        _COMPRESSIONS,
        (),
        path="$.compression",
        problems=problems,
    )
    if chosen is Format.PARQUET and compression not in (None, Compression.NONE):
        problems.append(Problem("$.compression", "Parquet is compressed by itself; leave it out"))
    if problems or period is None or chosen is None or compression is None:
        raise invalid_body(problems)
    return Export(period, filters, chosen, compression, FORMULAS in accept.replace(" ", "").lower())


def _decode(body: bytes) -> dict[str, object]:
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")[:200]
        raise invalid_body([Problem("$", f"malformed JSON: {reason}")]) from None
    if has_repeated_name(body):
        raise invalid_body([Problem("$", "a name stands twice in one object")])
    if not isinstance(request, dict):
        raise invalid_body([Problem("$", "the body must be one JSON object")])
    return request


def _period(request: dict[str, object], now_ms: int, problems: list[Problem]) -> Period | None:
    name = request.get("timezone", "UTC")
    try:
        if not isinstance(name, str):
            raise ValueError("expected an IANA name such as Europe/Berlin")
        zone = read_zone(name)
    except ValueError as error:
        problems.append(Problem("$.timezone", str(error)))
        zone = read_zone("UTC")
    found = read_period(request.get("time_period"), zone, now_ms)
    if isinstance(found, Period):
        return found
    problems.append(found)
    return None


def _format(request: dict[str, object], accept: str, problems: list[Problem]) -> Format | None:
    """What the body says, else the first type of `accept` that we write, else NDJSON."""
    if "format" in request:
        return read_word(request["format"], "format", _FORMATS, (), path="$.format", problems=problems)
    for one in accept.split(","):
        if found := _ACCEPTED.get(one.partition(";")[0].strip().lower()):
            return found
    return Format.NDJSON
