"""The body of POST /v1/export -> an Export, or every problem. Pure.

Period and filters are those of a query (`app.query_request`).
Next reader: `app.export_sql`.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.errors import Problem, invalid_body
from app.filters import Condition, to_conditions
from app.query_request import PeriodRequest, read_period_of
from app.request import read_members
from app.time_period import Period


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


class ExportRequest(PeriodRequest, frozen=True, kw_only=True):
    """Which events are exported, and how."""

    format: Annotated[Format, Meta(description="Else as `Accept` says, else `ndjson`.")] | UnsetType = UNSET
    compression: Annotated[
        Compression, Meta(description="Of NDJSON and CSV; Parquet compresses by itself.")
    ] = Compression.NONE


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


def read_export(body: bytes, accept: str, now_ms: int) -> Export:
    """The export that `body` asks for at `now_ms` (Unix milliseconds); `accept` is the header's value.

    Errors: ApiError 400 that names every problem found.
    """
    asked, problems = read_members(body, ExportRequest)
    period = read_period_of(asked, now_ms, problems)
    chosen = _accepted(accept) if asked.format is UNSET else asked.format
    if chosen is Format.PARQUET and asked.compression is not Compression.NONE:
        problems.append(Problem("$.compression", "Parquet is compressed by itself; leave it out"))
    if problems or period is None:
        raise invalid_body(problems)
    escapes = FORMULAS in accept.replace(" ", "").lower()
    return Export(period, to_conditions(asked.filters), chosen, asked.compression, escapes)


def _accepted(accept: str) -> Format:
    """The first type of `accept` that we write, else NDJSON."""
    for one in accept.split(","):
        if found := _ACCEPTED.get(one.partition(";")[0].strip().lower()):
            return found
    return Format.NDJSON
