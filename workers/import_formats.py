"""FILE -> a `Source`: how it is packed and which format it has, told by its first bytes and its name."""

from __future__ import annotations

import io
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

import msgspec

from workers import import_parquet, import_zstd
from workers.import_content import UTF8_MARK, Content, Input, InputError, Source, unpack
from workers.import_csv import CsvSource
from workers.import_mapping import Mapping
from workers.import_ndjson import NdjsonSource
from workers.import_parquet import ParquetSource

STDIN = "-"
Format: TypeAlias = Literal["ndjson", "csv", "parquet"]
ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".ndjson", ".jsonl", ".json", ".ldjson"), "ndjson"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
BROKEN = (OSError, EOFError, zlib.error, import_zstd.ZstdError)  # of unpacking
PACKED = (".gz", ".gzip", ".zst", ".zstd")


class Reading(msgspec.Struct, frozen=True):
    """How to read FILE. "" where it is to be found out."""

    path: str
    mapping: Mapping
    format: str = ""
    delimiter: str = ""
    encoding: str = ""
    grows: bool = False

    @property
    def name(self) -> str:
        return "standard input" if self.path == STDIN else self.path


class Opened(msgspec.Struct):
    """A source, and how far its input has been read. `identity`: the same bytes make the same events."""

    source: Source
    format: Format
    identity: bytes
    input: Input
    share: list[float]  # of a Parquet file's rows, which do not come in the order of its bytes

    @property
    def bytes_read(self) -> int:
        total = self.input.total
        return int(total * self.share[0]) if self.format == "parquet" and total else self.input.bytes_read


def open_source(reading: Reading, max_line_bytes: int) -> Opened:
    """Errors: InputError."""
    given = _open(reading.path)
    stream, packing = unpack(given)
    try:
        head = stream.peek(16)
    except BROKEN as error:
        raise InputError(f"{reading.name} is no {packing} file: {error}") from None
    if not head:
        raise InputError(f"{reading.name} is empty")
    format = _choose(reading, head)
    identity = msgspec.json.encode([format, reading.delimiter, reading.encoding]) + reading.mapping.identity
    share = [0.0]
    source: Source
    if format == "parquet":
        try:
            file = (
                open(reading.path, "rb")  # noqa: SIM115
                if reading.path != STDIN and not packing
                else import_parquet.keep(cast(BinaryIO, stream))
            )
        except BROKEN as error:
            raise InputError(f"{reading.name} is incomplete: {error}") from None
        source = ParquetSource(file, reading.mapping, lambda done: share.__setitem__(0, done))
        return Opened(source, format, identity, given, share)
    content = Content(cast(BinaryIO, stream), packing, reading.encoding, grows=reading.grows)
    if format == "csv":
        source = CsvSource(content, reading.mapping, max_line_bytes, reading.delimiter)
    else:
        source = NdjsonSource(content, reading.mapping, max_line_bytes)
    return Opened(source, format, identity, given, share)


def _open(path: str) -> Input:
    if path == STDIN:
        # Unbuffered: a thread that waits in a buffered reader keeps the interpreter from ending.
        return Input(io.FileIO(sys.stdin.fileno(), closefd=False), None)
    try:
        file = io.FileIO(path)
        status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return Input(file, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _choose(reading: Reading, head: bytes) -> Format:
    """As asked for, else by what it begins with, else by the name's ending."""
    is_parquet = head.startswith(import_parquet.MAGIC)
    if reading.format:
        if is_parquet != (reading.format == "parquet"):
            raise InputError(f"{reading.name} is {'a' if is_parquet else 'no'} Parquet file; see --format")
        return cast(Format, reading.format)
    if is_parquet:
        return "parquet"
    endings = [one.lower() for one in Path(reading.path).suffixes if one.lower() not in PACKED]
    found = ENDINGS.get(endings[-1]) if endings else None
    if found == "parquet":
        raise InputError(f"{reading.name} is no Parquet file, though its name says so; see --format")
    if found is None and head.removeprefix(UTF8_MARK).lstrip()[:1] in (b"{", b"["):
        found = "ndjson"
    if found is None:
        raise InputError(f"it cannot be told what {reading.name} is: add --format ndjson, csv or parquet")
    return found
