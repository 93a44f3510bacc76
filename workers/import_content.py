"""What an import reads, a file or standard input, unpacked; and what every format makes of it: a `Source`."""

from __future__ import annotations

import gzip
import io
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


class EndsTooSoon(InputError):
    """It ends before anything of it can be read. The whole of it can be imported."""


class ReadError(InputError):
    """The disk or network under it fails. What was read before is right, and can be gone on from."""


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
    """Some rows as the bytes of events, and the line on which each begins. `end` lies behind them.

    What stands behind the last whole row and is none comes by itself, with an `end` before it: the next run
    shall read it again, when it may be whole, and no other content be known by it.
    """

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

    @property
    def advice(self) -> str:
        """What to do about damage, where running it again need not go on; "" where it goes on."""
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
    """The bytes as they lie on the disk or come through a pipe, counted. `total` is None for a pipe.

    Errors of reading: ReadError. An OSError would be taken for one of Redis.
    """

    def __init__(self, file: io.FileIO, name: str, total: int | None) -> None:
        self._file = file
        self._name = name
        self._head = b""
        self.total = total
        self.bytes_read = 0

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def peek(self, size: int) -> bytes:
        """The first bytes, which will be read again."""
        while len(self._head) < size and (more := self._more(size - len(self._head))):
            self._head += more
        return self._head

    def read1(self, size: int) -> bytes:
        return self.read(size)

    def read(self, size: int = -1) -> bytes:
        size = size if size > 0 else BLOCK_BYTES
        data, self._head = self._head[:size], self._head[size:]
        # Not the first bytes alone: a packed file would show so few that its format could not be told.
        data += self._more(size - len(data)) if len(data) < size else b""
        self.bytes_read += len(data)
        return data

    def _more(self, size: int) -> bytes:
        try:
            return self._file.read(size) or b""
        except OSError as error:
            raise ReadError(
                f"{self._name} cannot be read behind byte {self.bytes_read:,}: {error.strerror}"
            ) from None


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
