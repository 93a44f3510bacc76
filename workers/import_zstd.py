"""zstd of whichever Python this is: part of the standard library from 3.14 on, a package before."""

from __future__ import annotations

import sys
from typing import BinaryIO, cast

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile
else:
    from backports.zstd import ZstdError, ZstdFile

__all__ = ["ZstdError", "open_stream"]


def open_stream(packed: BinaryIO) -> BinaryIO:
    """Unpacks as it is read, any number of frames. Errors of reading: ZstdError, EOFError."""
    return cast(BinaryIO, ZstdFile(packed))
