"""Compressed bodies, as clients make them."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Packer(Protocol):
    """Packs piece by piece."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def pack_raw(data: bytes) -> bytes:
    """deflate without zlib's head and sum, as some clients understand the word."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


# Name -> coding, and who packs it.
PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", pack_raw),
    "zstd": ("zstd", zstd.compress),
}


def bomb(name: str, megabytes: int = 100) -> bytes:
    """Blanks, packed."""
    packers: dict[str, Packer] = {
        "gzip": zlib.compressobj(9, zlib.DEFLATED, 31),
        "zlib": zlib.compressobj(9),
        "raw deflate": zlib.compressobj(9, zlib.DEFLATED, -15),
        "zstd": zstd.ZstdCompressor(),
    }
    packer = packers[name]
    return b"".join(packer.compress(b" " * 1_000_000) for _ in range(megabytes)) + packer.flush()


def pack_with_window(data: bytes, log: int) -> bytes:
    """zstd that asks for a window of 2**log bytes, and does not say how long it is."""
    packer = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.window_log: log,
            zstd.CompressionParameter.content_size_flag: 0,
        }
    )
    return packer.compress(data[:1]) + packer.compress(data[1:]) + packer.flush()
