"""Looks for bytes in files: whether what was erased is gone from the disk, and not only from the answers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# Compressed, nothing could be found: a test that looks for bytes has them written as they are.
PLAIN_CODECS = (
    "ALTER TABLE events MODIFY COLUMN body CODEC(NONE), MODIFY COLUMN fields CODEC(NONE),"
    " MODIFY COLUMN customer_identifier CODEC(NONE), MODIFY COLUMN event_id CODEC(NONE)",
    "ALTER TABLE fates MODIFY COLUMN customer_identifier CODEC(NONE), MODIFY COLUMN detail CODEC(NONE)",
    "ALTER TABLE erasures MODIFY COLUMN tombstone CODEC(NONE)",
)


def files_with(marker: bytes, *directories: Path, since: float = 0.0) -> list[str]:
    """The files below `directories`, changed at `since` (Unix seconds) or later, that hold these bytes."""
    return sorted(
        str(path)
        for directory in directories
        for path in _files(directory)
        if _changed(path) >= since and _holds(path, marker)
    )


def _files(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        yield from (Path(root, name) for name in names)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone, or a socket
        return -1.0


def _holds(path: Path, marker: bytes) -> bool:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(marker) >= 0
    except (OSError, ValueError):  # gone meanwhile, or no file
        return False
