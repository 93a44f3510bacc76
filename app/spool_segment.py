"""One file of the spool: append and sync, read on, begin anew. Blocking: `app.spool` calls it in a thread."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from app import spool_format
from app.spool_format import SEGMENT_HEAD, Damage, Frame
from app.spool_slot import Slot

SEGMENT_BYTES = 8 * 1024 * 1024
READ_BYTES = 1024 * 1024
NEWER_MS, OLDER_MS = 1_000, 120_000  # between a request's id and the moment at which it was spooled


class SpoolError(Exception):
    """The group is not in the spool; the message says why."""


class SpoolFull(SpoolError):
    """Nothing was kept."""


class SpoolUnsure(SpoolError):
    """It is not known whether the group was kept."""


class Segment:
    """One open file. `end`: up to here it is synced. `position`: up to here it was replayed.

    `groups`: partition -> groups in it that were not replayed yet. Those that are appended are counted by
    `app.spool`, in its loop: `end` has passed them by then.
    """

    def __init__(self, slot: Slot, path: Path, descriptor: int, *, end: int, size: int) -> None:
        self.path = path
        self.end = end
        self.size = size
        self.position = len(SEGMENT_HEAD)
        self.groups: Counter[int] = Counter()
        self._slot = slot
        self._descriptor = descriptor
        self._first_ms, self._last_ms = 0, 2**63  # a former life's may be of any time

    @property
    def room(self) -> int:
        """Bytes that can still be appended."""
        return self.size - self.end

    @property
    def is_removed(self) -> bool:
        """Did somebody delete the file? Then what is in it ends with this process."""
        return os.fstat(self._descriptor).st_nlink == 0

    def copy(self) -> None:
        """Go on in a new file with the same content, the slot's last one, synced. Errors: OSError."""
        path, descriptor = self._slot.create(self.size)
        try:
            content = os.pread(self._descriptor, self.end, 0)
            if os.pwrite(descriptor, content, 0) != len(content):
                raise OSError(0, "a write was cut short")
            os.fdatasync(descriptor)
        except BaseException:
            os.close(descriptor)
            self._slot.remove(path)
            raise
        if not self.is_removed:  # otherwise the new file may have its name
            self._slot.remove(self.path)
        os.close(self._descriptor)
        self.path, self._descriptor = path, descriptor

    def append(self, frames: list[bytes]) -> None:
        """Write and sync all of these, or none. Errors: SpoolFull, SpoolUnsure."""
        content = b"".join(frames)
        try:
            if os.pwrite(self._descriptor, content, self.end) != len(content):
                raise OSError(0, "a write was cut short")
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._cut(error)
        self.end += len(content)
        self._last_ms = _now_ms()

    def read(self) -> tuple[list[Frame], int]:
        """About a megabyte of frames from the position on, and where they end."""
        frames: list[Frame] = []
        size = 0
        for item, end in spool_format.read(self._content()):
            if isinstance(item, Frame):
                frames.append(item)
                size += len(item.payload)
            if size >= READ_BYTES:
                return frames, self.position + end
        return frames, self.end

    def find(self, request_id: bytes, moment_ms: int) -> list[bytes]:
        """The groups not replayed yet that hold these bytes, if it is of the time of `moment_ms`."""
        if not self._first_ms - OLDER_MS <= moment_ms <= self._last_ms + NEWER_MS:
            return []
        content = self._content()
        if request_id not in content:  # most often, and a hundred times faster than reading frames
            return []
        frames = (item for item, _ in spool_format.read(content) if isinstance(item, Frame))
        return [frame.payload for frame in frames if request_id in frame.payload]

    def rewind(self) -> None:
        """Everything was replayed: begin anew, so that a crash replays nothing twice. Errors: OSError."""
        self.end = self.position = self.size = len(SEGMENT_HEAD)
        os.ftruncate(self._descriptor, self.end)
        os.posix_fallocate(self._descriptor, 0, SEGMENT_BYTES)
        self.size = SEGMENT_BYTES
        self._first_ms = self._last_ms = _now_ms()

    def close(self, *, remove: bool) -> None:
        """Close it, and remove the file if nothing in it is needed any more. Errors: OSError."""
        os.close(self._descriptor)
        if remove:
            self._slot.remove(self.path)

    def _content(self) -> bytes:
        return os.pread(self._descriptor, self.end - self.position, self.position)

    def _cut(self, error: OSError) -> NoReturn:
        """Take a failed write back, so that a later life does not find what was refused."""
        self.size = self.end  # nothing more goes into it
        try:
            os.ftruncate(self._descriptor, self.end)
            os.fsync(self._descriptor)
        except OSError:
            raise SpoolUnsure(f"the disk of the spool: {error.strerror}") from error
        raise SpoolFull(f"the disk of the spool: {error.strerror}") from error


def create(slot: Slot) -> Segment:
    """A new, last segment of the slot. Errors: OSError."""
    path, descriptor = slot.create(SEGMENT_BYTES)
    segment = Segment(slot, path, descriptor, end=len(SEGMENT_HEAD), size=SEGMENT_BYTES)
    segment._first_ms = segment._last_ms = _now_ms()
    return segment


def load(slot: Slot, tell_of: Callable[[Damage, Path], None]) -> list[Segment]:
    """What a former life left in the slot, closed for writing. Unreadable bytes are set aside and told of.

    Errors: OSError.
    """
    segments: list[Segment] = []
    try:
        for path in slot.segments():
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            segments.append(Segment(slot, path, descriptor, end=0, size=0))
            _read_through(segments[-1], slot, tell_of)
    except BaseException:
        for segment in segments:
            segment.close(remove=False)
        raise
    return segments


def _read_through(segment: Segment, slot: Slot, tell_of: Callable[[Damage, Path], None]) -> None:
    segment.end = segment.size = os.fstat(segment._descriptor).st_size
    for item, _ in spool_format.read(os.pread(segment._descriptor, segment.size, 0)):
        if isinstance(item, Frame):
            segment.groups[item.partition] += 1
            continue
        tell_of(item, segment.path)
        try:
            slot.keep_damaged(segment.path, item.content)
        except OSError:
            # A full disk must not keep whole frames from being replayed: that is what empties it.
            if not item.is_tail:
                raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
