"""The spool: groups that Redis could not take, fsynced on this edge's own disk, first in, first out.

A group is kept when `write` returns: its frame is in a segment and synced. Groups that are written at the
same time share one sync. The size is bounded, and the room of the open segment is allocated ahead, so that
what was promised room can be written although the disk has filled up since. `app.append` writes,
`app.replay` reads (`peek`, then `done` when Redis has them). What a former life left in the slot comes first.

    SpoolError
    +-- SpoolFull     no room, or the disk refused: nothing was kept
    +-- SpoolUnsure   the disk failed in a way that leaves open whether the frame will be found again
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from app import metrics, spool_format, spool_segment
from app.spool_format import Damage, Frame
from app.spool_segment import SEGMENT_BYTES, Segment, SpoolError, SpoolFull, SpoolUnsure
from app.spool_slot import Slot

MAX_FRAME_BYTES = 3 * 1024 * 1024  # a group of a megabyte, a last event of another, and its head

__all__ = ["Spool", "SpoolError", "SpoolFull", "SpoolUnsure"]

T = TypeVar("T")
log = structlog.get_logger()


class _Write:
    """A frame on its way to the disk."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.content = spool_format.encode(frame)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())


class Spool:
    """The spool in one locked slot. All methods belong to one event loop; files are touched in one thread."""

    def __init__(self, take_slot: Callable[[], Slot], max_bytes: int, *, is_adopted: bool = False) -> None:
        self._take_slot = take_slot
        self._slot: Slot | None = None
        self._is_loaded = False
        self._max_segments = max(1, max_bytes // SEGMENT_BYTES)
        self._is_adopted = is_adopted  # another process's remains: replayed, never written to
        self._segments: deque[Segment] = deque()
        self._groups: Counter[int] = Counter()  # not replayed yet, by partition; those being written too
        self._promised = 0
        self._waiting: list[_Write] = []
        self._flushing: asyncio.Task[None] | None = None
        self._peeked: tuple[Segment, list[Frame], int] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self.problem = ""  # of the disk, as the last write found it
        self.is_open = False

    async def open(self) -> None:
        """Take the slot, read what a former life left in it, allocate the first segment.

        Until then there is no room; but what was read can be replayed, which may be what makes room. May be
        repeated after an error. Errors: OSError.
        """
        if self._slot is None:
            self._slot = await self._run(self._take_slot)
        if not self._is_loaded:
            for segment in await self._run(partial(spool_segment.load, self._slot, _tell_of)):
                self._segments.append(segment)
                self._groups += segment.groups
            self._is_loaded = True
        if not self._is_adopted:
            await self._run(self._current)
        self.is_open = True

    async def close(self, timeout_seconds: float) -> None:
        """Finish the writes under way and give the slot back; what was not replayed stays on disk."""
        if self._is_flushing:
            await asyncio.wait({self._flushing}, timeout=timeout_seconds)  # type: ignore[type-var]
        self._thread.shutdown(wait=False)
        if self._is_flushing:
            return  # the disk hangs: the end of the process closes what the thread still uses
        for segment in self._segments:
            with contextlib.suppress(OSError):
                segment.close(remove=not self.groups)  # an idle edge leaves nothing that others would adopt
        self._segments.clear()
        self.is_open = False
        if self._slot is not None:
            self._slot.release()

    @property
    def groups(self) -> int:
        """How many groups wait for their replay."""
        return self._groups.total()

    @property
    def size_bytes(self) -> int:
        """Allocated on disk."""
        return sum(segment.size for segment in list(self._segments))

    def has(self, partition: int) -> bool:
        """Does a group of this partition wait? Then the next one must wait behind it."""
        return self._groups[partition] > 0

    def has_room(self, size_bytes: int = MAX_FRAME_BYTES) -> bool:
        """Is there room for a frame of this size, beside all that was promised?"""
        # Each segment may end with room for which the next frame was too large.
        spare = (self._max_segments - len(self._segments)) * (SEGMENT_BYTES - MAX_FRAME_BYTES)
        current = self._segments[-1].room if self._segments else 0
        return self.is_open and spare + current >= self._promised + size_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Promise room for a frame: `write` or `give_back` must follow. False when there is none."""
        if not self.has_room(size_bytes):
            return False
        self._promised += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """The room is not needed: Redis has the group."""
        self._promised -= size_bytes

    async def write(self, frame: Frame) -> None:
        """Keep a group for which room was promised. Errors: SpoolFull, SpoolUnsure."""
        write = _Write(frame)
        self._waiting.append(write)
        self._groups[frame.partition] += 1
        if not self._is_flushing:
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(write.done)

    async def peek(self) -> list[Frame]:
        """The oldest groups, about a megabyte of them; [] when none is on disk. Errors: OSError."""
        while self._peeked is None and self._groups.total() > 0 and self._segments:
            segment = self._segments[0]
            frames, end = await self._run(segment.read)
            self._peeked = (segment, frames, end)
            if not frames:
                await self.done()
                if self._segments and segment is self._segments[-1]:
                    break  # what is still counted is on its way to the disk
        return self._peeked[1] if self._peeked else []

    async def done(self) -> None:
        """Redis has what `peek` returned. Frees what is not needed any more. Errors: OSError."""
        if self._peeked is None:
            return
        segment, frames, end = self._peeked
        self._peeked = None
        segment.position = end
        self._forget(segment, Counter(frame.partition for frame in frames))
        if segment.position < segment.end:
            return
        self._forget(segment, segment.groups)  # frames that were damaged after they had been written
        if segment is not self._segments[-1]:
            self._segments.popleft()
            await self._run(partial(segment.close, remove=True))
        elif not self._is_adopted and not self.groups and not self._is_flushing:
            # Queued before any later write, so it empties nothing but what was replayed.
            await self._run(segment.rewind)

    async def look_after(self) -> None:
        """Notice that files were deleted under us, and write them again; and, after a write that failed, that
        the disk takes one again: while nothing has to be written nobody else would. Errors: OSError."""
        if not self.is_open:
            return
        await self._run(self._restore)
        if self.problem and not self.groups:
            await self._run(self._current)
            if not self._is_flushing:  # whose end says more
                self.problem = ""

    async def find(self, request_id: bytes) -> list[bytes]:
        """The groups that wait here and hold these bytes. Reads only segments of the request's time."""
        moment_ms = int.from_bytes(request_id[:6], "big")
        for segment in list(self._segments):
            with contextlib.suppress(OSError):  # closed meanwhile, because all of it was replayed
                if found := await self._run(partial(segment.find, request_id, moment_ms)):
                    return found
        return []

    @property
    def _is_flushing(self) -> bool:
        return self._flushing is not None and not self._flushing.done()

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _flush(self) -> None:
        while self._waiting:
            error: SpoolError | None = None
            segment: Segment | None = None
            number = len(self._waiting)
            try:
                segment, number = await self._run(partial(self._write, list(self._waiting)))
                self.problem = ""
            except Exception as caught:
                error = caught if isinstance(caught, SpoolError) else SpoolUnsure(f"the spool: {caught}")
                self.problem = str(error)
                log.error("the spool cannot be written", error=str(error))
            writes, self._waiting = self._waiting[:number], self._waiting[number:]
            for write in writes:
                self._promised -= len(write.content)
                if segment is not None:
                    segment.groups[write.frame.partition] += 1
                    metrics.SPOOLED_EVENTS.inc(write.frame.records)
                    write.done.set_result(None)
                elif error is not None:
                    self._groups[write.frame.partition] -= 1
                    write.done.set_exception(error)

    def _write(self, writes: list[_Write]) -> tuple[Segment, int]:
        """Keep as many as the open segment has room for; which that was, and how many.

        Errors: SpoolFull, SpoolUnsure; then none of them is.
        """
        try:
            segment = self._current(len(writes[0].content))
        except OSError as error:
            raise SpoolFull(f"the disk of the spool: {error.strerror}") from error
        number = room = 0
        for write in writes:
            room += len(write.content)
            if room > segment.room:
                break
            number += 1
        segment.append([write.content for write in writes[:number]])
        return segment, number

    def _current(self, size_bytes: int = 1) -> Segment:
        """The segment with room for a frame, a new one if need be. Errors: OSError."""
        self._restore()
        if not self._segments or self._segments[-1].room < size_bytes:
            if self._slot is None:
                raise OSError(0, "the spool is not open")
            self._segments.append(spool_segment.create(self._slot))
        return self._segments[-1]

    def _restore(self) -> None:
        """All segments or none: they must keep their order for the next life too."""
        segments = list(self._segments)
        if self._slot is None or not any(segment.is_removed for segment in segments):
            return
        self._slot.renew()
        for segment in segments:
            segment.copy()
        log.error("files of the spool were deleted; they were written again", path=str(self._slot.path))

    def _forget(self, segment: Segment, groups: Counter[int]) -> None:
        self._groups -= groups
        segment.groups -= groups


def _tell_of(damage: Damage, path: Path) -> None:
    """What ends a segment may be a write that nobody was told of; elsewhere it was."""
    metrics.SPOOL_DAMAGED_BYTES.inc(len(damage.content))
    if damage.is_tail:
        log.warning("the last write of a spool was cut off", path=str(path), bytes=len(damage.content))
    else:
        log.error("a part of the spool cannot be read", path=str(path), bytes=len(damage.content))
