"""What an import reads: a file or standard input, unpacked, with a position and a digest of all before it.

The digest is how an import knows its content again (`workers.import_journal`). It is of the unpacked bytes,
so a file that was packed since is the same; and it runs along, so that a pipe can be resumed as well.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence
from typing import BinaryIO, Protocol, cast

import msgspec

from workers import import_zstd

BLOCK_BYTES = 256 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024  # a longer one is not of this format; what is kept of a line is far less
UTF8_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((first, 0x2A, 0x4D, 0x18)) for first in range(0x50, 0x60)))
# What people have lying about and we do not read, and how to make it something that we do.
FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it first, for example with `unzip -p FILE | eventbunker import -`",
    b"BZh": "packed with bzip2: `bzcat FILE | eventbunker import -`",
    b"\xfd7zXZ": "packed with xz: `xzcat FILE | eventbunker import -`",
    b"SQLite format 3": "a SQLite database: export a table as CSV",
    b"ORC": "an ORC file: convert it to Parquet",
    b"Obj\x01": "an Avro file: convert it to Parquet or NDJSON",
}


class InputError(Exception):
    """It cannot be imported as it is; the message says what to change."""


def too_long(line: int) -> InputError:
    """For text without line breaks."""
    return InputError(f"line {line:,} has more than {MAX_LINE_BYTES >> 20} MiB; is the format right?")


class Mark(msgspec.Struct, frozen=True):
    """A place between two rows: how much lies before it, and the digest of that.

    `position` counts unpacked bytes, or rows of a Parquet file; `line` is the number of the next line.
    """

    position: int
    line: int
    digest: str


class Unreadable(msgspec.Struct, frozen=True):
    """A row that is no event's bytes yet: why not, and what stands there."""

    reason: str
    text: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Some rows as the bytes of events, and the line on which each begins. `end` lies behind them."""

    bodies: list[bytes | Unreadable]
    lines: Sequence[int]
    end: Mark


class Source(Protocol):
    """Rows in order, in chunks. Used by one thread at a time."""

    @property
    def mark(self) -> Mark:
        """Where it stands."""
        ...

    @property
    def problem(self) -> str:
        """Why it ended too soon; "" while it did not."""
        ...

    def digest_at(self, position: int) -> str | None:
        """The digest of all before `position`, asked before a row was read; None where it ends sooner."""
        ...

    def skip_to(self, position: int) -> None:
        """Pass over rows; `mark` tells whether there were so many."""
        ...

    def read(self, until: int | None) -> Chunk | None:
        """The next rows, to `until` exactly if it is given. None at the end."""
        ...


class Input:
    """The bytes as they lie on the disk or come through a pipe, counted. `total` is None for a pipe."""

    def __init__(self, file: io.FileIO, total: int | None) -> None:
        self._file = file
        self._head = b""
        self.total = total
        self.bytes_read = 0

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def peek(self, size: int) -> bytes:
        """The first bytes, which will be read again."""
        while len(self._head) < size and (more := self._file.read(size - len(self._head))):
            self._head += more
        return self._head

    def read1(self, size: int) -> bytes:
        return self.read(size)

    def read(self, size: int = -1) -> bytes:
        size = size if size > 0 else BLOCK_BYTES
        data, self._head = self._head[:size], self._head[size:]
        # Not the first bytes alone: a packed file would show so few that its format could not be told.
        data += (self._file.read(size - len(data)) or b"") if len(data) < size else b""
        self.bytes_read += len(data)
        return data


class Peekable(Protocol):
    """A stream that can be looked into."""

    def peek(self, size: int) -> bytes: ...
    def read(self, size: int = -1) -> bytes: ...
    def read1(self, size: int) -> bytes: ...


def unpack(source: Input) -> tuple[Peekable, str]:
    """The unpacked bytes, and the name of the packing ("" for none). Errors: InputError."""
    head = source.peek(16)
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"this is {what}")
    if head.startswith(GZIP):
        return gzip.GzipFile(fileobj=source), "gzip"  # type: ignore[call-overload]
    if head.startswith(ZSTD):
        return cast(Peekable, import_zstd.open_stream(cast(BinaryIO, source))), "zstd"
    return source, ""


class Content:
    """Unpacked text, taken piece by piece from the front. All that was taken is in the digest."""

    def __init__(self, stream: Peekable, packing: str, encoding: str = "", *, grows: bool = False) -> None:
        """`grows`: a last line without a line break is not finished yet, and not read."""
        self._stream = stream
        self._packing = packing
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._has_ended = False
        self._grows = grows
        self.position = 0
        self.line = 1
        self.problem = ""

    @property
    def mark(self) -> Mark:
        return Mark(self.position, self.line, self._hash.hexdigest())

    @property
    def is_cut_off(self) -> bool:
        """Is what stands behind the last line break no whole row? To be asked at the end."""
        return self._grows or bool(self.problem)

    @property
    def waiting(self) -> bytearray:
        """What was filled and not taken. Only to look at."""
        return self._buffer

    def fill(self, size: int) -> bool:
        """Have `size` bytes waiting; False where there are not so many."""
        while len(self._buffer) < size and not self._has_ended:
            self._buffer += self._read()
        return len(self._buffer) >= size

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which wait already."""
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._hash.update(data)
        self.position += len(data)
        return data

    def digest_at(self, position: int) -> str | None:
        """The digest of everything before `position`, which is not behind; None where it ends sooner."""
        size = position - self.position
        if size < 0 or not self.fill(size):
            return None
        ahead = self._hash.copy()
        ahead.update(memoryview(self._buffer)[:size])
        return ahead.hexdigest()

    def skip_to(self, position: int) -> None:
        while self.position < position:
            self.fill(min(position - self.position, BLOCK_BYTES))
            if not self._buffer:
                return
            self.line += self.take(min(position - self.position, len(self._buffer))).count(b"\n")

    def _read(self) -> bytes:
        try:
            # What is there: a longer read that meets the broken end would lose what came before it.
            data = self._stream.read1(BLOCK_BYTES)
            if self._decoder is not None:
                return self._decoder.decode(data, final=not data).encode() or self._end_at(data)
        except (EOFError, zlib.error, gzip.BadGzipFile, import_zstd.ZstdError) as error:
            how = "ends in the middle" if isinstance(error, EOFError) else f"is damaged ({error})"
            self.problem = f"the {self._packing} data {how}"
            data = b""
        except UnicodeError as error:
            raise InputError(
                f"it is not {self._encoding} after byte {self.position + len(self._buffer):,}: {error}; "
                "name another one with --encoding"
            ) from None
        return data or self._end_at(data)

    def _end_at(self, data: bytes) -> bytes:
        self._has_ended = not data
        return b""


class TextSource:
    """What a `Source` of lines knows of its place, all of it from the bytes."""

    def __init__(self, content: Content) -> None:
        self._content = content

    @property
    def mark(self) -> Mark:
        return self._content.mark

    @property
    def problem(self) -> str:
        return self._content.problem

    def digest_at(self, position: int) -> str | None:
        return self._content.digest_at(position)

    def skip_to(self, position: int) -> None:
        self._content.skip_to(position)
