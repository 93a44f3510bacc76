"""Pages of rows -> the bytes of a file, in the format and compression that were asked for. Pure.

A writer is used by one thread at a time: `begin` once, `add` for each page, `end` once. What is not ended is
no whole file: a gzip or zstd stream without its end, Parquet without the footer that holds its schema.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from app.errors import ApiError, Kind
from app.export_parquet import Parquet, ParquetMissing
from app.export_request import Compression, Export, Format
from app.export_text import Csv, Row, ndjson

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 4  # half the time of the default for a few percent more bytes
ZSTD_LEVEL = 3


class Writer(Protocol):
    """Each call returns what of the file is ready by then."""

    def begin(self) -> bytes: ...

    def add(self, rows: Sequence[Row]) -> bytes: ...

    def end(self) -> bytes: ...


def make_writer(export: Export, types: Mapping[str, set[str]]) -> Writer:
    """`types`: the custom fields; of no interest for NDJSON. Errors: ApiError where a package is missing."""
    if export.format is Format.PARQUET:
        try:
            return _Parquet(Parquet(types))
        except ParquetMissing:
            raise ApiError(
                Kind.NOT_INSTALLED,
                'This server writes no Parquet: its operator has to install the extra "parquet" (pyarrow). '
                "Ask for ndjson or csv.",
            ) from None
    writer: Writer = _Ndjson()
    if export.format is Format.CSV:
        writer = _Csv(Csv(types, escapes_formulas=export.escapes_formulas))
    return writer if export.compression is Compression.NONE else _Compressed(writer, export.compression)


class _Ndjson:
    def begin(self) -> bytes:
        return b""

    def add(self, rows: Sequence[Row]) -> bytes:
        return ndjson(rows)

    def end(self) -> bytes:
        return b""


class _Csv:
    def __init__(self, csv: Csv) -> None:
        self._csv = csv

    def begin(self) -> bytes:
        return self._csv.header()

    def add(self, rows: Sequence[Row]) -> bytes:
        return self._csv.lines(rows)

    def end(self) -> bytes:
        return b""


class _Parquet:
    def __init__(self, parquet: Parquet) -> None:
        self._parquet = parquet

    def begin(self) -> bytes:
        return b""

    def add(self, rows: Sequence[Row]) -> bytes:
        return self._parquet.add(rows)

    def end(self) -> bytes:
        return self._parquet.end()


class _Compressed:
    def __init__(self, inner: Writer, compression: Compression) -> None:
        self._inner = inner
        self._packer: _Packer = (
            zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
            if compression is Compression.GZIP
            else zstd.ZstdCompressor(level=ZSTD_LEVEL)
        )

    def begin(self) -> bytes:
        return self._packer.compress(self._inner.begin())

    def add(self, rows: Sequence[Row]) -> bytes:
        return self._packer.compress(self._inner.add(rows))

    def end(self) -> bytes:
        return self._packer.compress(self._inner.end()) + self._packer.flush()


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...
