"""How many events a file of an edge holds so far: for the progress, and to know whether it is whole.

NDJSON and CSV are counted as they pass, unpacked where they are packed. Of Parquet only the end tells.
"""

from __future__ import annotations

import sys
import zlib
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"PAR1"


class Counter(Protocol):
    def add(self, piece: bytes) -> int | None:
        """Events so far; None where nobody can tell."""
        ...

    def end(self) -> int | None:
        """Events in all; None where nobody can tell. Errors: ValueError where the end is missing."""
        ...


def counter_of(format_: str, compression: str) -> Counter:
    """For what was asked of the edge."""
    if format_ == "parquet":
        return _Parquet()
    counter: Counter = _Csv() if format_ == "csv" else _Lines()
    return counter if compression == "none" else _Packed(counter, compression)


class _Lines:
    def __init__(self) -> None:
        self._count = 0
        self._last = b"\n"

    def add(self, piece: bytes) -> int:
        self._count += piece.count(b"\n")
        self._last = piece[-1:] or self._last
        return self._count

    def end(self) -> int:
        if self._last != b"\n":
            raise ValueError("its last line is cut off")
        return self._count


class _Csv:
    """Line breaks in quotes are no ends of rows; a quote in quotes is two."""

    def __init__(self) -> None:
        self._count = -1  # the header
        self._is_inside = False
        self._last = b""

    def add(self, piece: bytes) -> int:
        parts = piece.split(b'"')
        outside = parts[1::2] if self._is_inside else parts[::2]
        self._count += sum(part.count(b"\n") for part in outside)
        self._is_inside ^= len(parts) % 2 == 0
        self._last = piece[-1:] or self._last
        return max(0, self._count)

    def end(self) -> int:
        if self._is_inside or self._last != b"\n":
            raise ValueError("its last row is cut off")
        return self._count


class _Packed:
    def __init__(self, inner: Counter, compression: str) -> None:
        self._inner = inner
        self._unpacker: _Unpacker = (
            zlib.decompressobj(zlib.MAX_WBITS | 16) if compression == "gzip" else zstd.ZstdDecompressor()
        )

    def add(self, piece: bytes) -> int | None:
        return self._inner.add(b"" if self._unpacker.eof else self._unpacker.decompress(piece))

    def end(self) -> int | None:
        if not self._unpacker.eof:
            raise ValueError("the end of the packed stream is missing")
        return self._inner.end()


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Parquet:
    def __init__(self) -> None:
        self._last = b""

    def add(self, piece: bytes) -> None:
        self._last = (self._last + piece)[-len(_MAGIC) :]

    def end(self) -> None:
        if self._last != _MAGIC:
            raise ValueError("its footer is missing")
