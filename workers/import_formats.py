"""FILE -> a `Source`: how it is packed and which format it has, told by its first bytes and its name."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

import msgspec

from workers import import_parquet, import_zstd
from workers.import_content import UTF8_MARK, EndsTooSoon, Input, InputError, Peekable, Source, unpack
from workers.import_csv import CsvSource
from workers.import_mapping import Mapping
from workers.import_ndjson import NdjsonSource
from workers.import_parquet import ParquetSource
from workers.import_text import Content

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
        """For people, and the same from every directory."""
        return "standard input" if self.path == STDIN else str(Path(self.path).absolute())


class Opened:
    """A source, and how far its input has been read. `identity`: what makes other events of same bytes."""

    source: Source

    def __init__(self, format: Format, identity: bytes, given: Input, files: contextlib.ExitStack) -> None:
        self.format = format
        self.identity = identity
        self.input = given
        self.files = files
        self._share = 0.0  # of a Parquet file's rows, which do not come in the order of its bytes

    @property
    def bytes_read(self) -> int:
        if self.format == "parquet" and self.input.total:
            return int(self.input.total * self._share)
        return self.input.bytes_read

    def read_rows(self, share: float) -> None:
        self._share = share

    def close(self) -> None:
        self.files.close()


def open_source(reading: Reading, max_line_bytes: int) -> Opened:
    """To be closed. Errors: InputError, EndsTooSoon among them."""
    with contextlib.ExitStack() as files:
        given = files.enter_context(_open(reading))
        stream, packing = unpack(given)
        try:
            head = stream.peek(16)
        except EOFError:  # its beginning is right
            raise EndsTooSoon(
                f"{reading.name}: the {packing} data ends in the middle, before its first row"
            ) from None
        except BROKEN as error:
            raise InputError(f"{reading.name} is no {packing} file: {error}") from None
        if not head:
            raise InputError(f"{reading.name} is empty")
        format = _choose(reading, head)
        identity = (
            msgspec.json.encode([format, reading.delimiter, reading.encoding]) + reading.mapping.identity
        )
        opened = Opened(format, identity, given, files.pop_all())
    try:
        opened.source = _source(reading, opened, stream, packing, max_line_bytes)
    except BaseException:
        opened.close()
        raise
    return opened


def _source(reading: Reading, opened: Opened, stream: Peekable, packing: str, max_line_bytes: int) -> Source:
    if opened.format == "parquet":
        try:
            if reading.path == STDIN or packing:
                file = import_parquet.keep(cast(BinaryIO, stream))
            else:
                file = open(reading.path, "rb")  # noqa: SIM115
        except BROKEN as error:
            raise InputError(f"{reading.name} cannot be unpacked or read: {error}") from None
        opened.files.enter_context(file)
        return ParquetSource(file, reading.mapping, opened.read_rows)
    content = Content(stream, packing, reading.encoding, grows=reading.grows)
    if opened.format == "csv":
        return CsvSource(content, reading.mapping, max_line_bytes, reading.delimiter)
    return NdjsonSource(content, reading.mapping, max_line_bytes)


def _open(reading: Reading) -> Input:
    if reading.path == STDIN:
        if sys.stdin is None:  # as `<&-` leaves it
            raise InputError("standard input is closed: name a file, or give it something to read")
        # Unbuffered: a thread that waits in a buffered reader keeps the interpreter from ending.
        file = io.FileIO(sys.stdin.fileno(), closefd=False)
        status = os.fstat(file.fileno())
    else:
        try:
            file = io.FileIO(reading.path)
            status = os.fstat(file.fileno())
        except OSError as error:
            raise InputError(f"{reading.path} cannot be read: {error.strerror}") from None
    return Input(file, reading.name, status.st_size if stat.S_ISREG(status.st_mode) else None)


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
