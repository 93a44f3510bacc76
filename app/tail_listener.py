"""One client of the tail: which events it wants, and a bounded queue of what it has not taken yet. No I/O.

Whoever reads more slowly than events come loses some, and is told how many in their place: the queue never
grows beyond its bound, and nobody waits for it, but for who shows what is remembered. In their place, for a
client that is cut off goes on from the last id that it has: before none may events be missing untold.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping

from app.match import Test
from app.metrics import TAIL_DROPPED, TAIL_EVENTS
from app.tail_frames import Dropped, EntryId, Positions, message, named

MAX_QUEUED_BYTES = 1024 * 1024
GAP_BYTES = 128  # for the news that some are missing here, of which there is one between two events at most
# Why events are missing.
SLOW = "slow_reader"  # the client takes them more slowly than they come
BUSY = "too_many_events"  # more than an edge looks into for its tails
MISSED = "read_too_late"  # stored and trimmed before this edge had read them
RESUMED = "away_too_long"  # the client was cut off for longer than this edge remembers


class _Gap:
    """Events that are missing, by the reason, between two of the queue. `positions`: where that is."""

    __slots__ = ("counts", "positions")

    def __init__(self) -> None:
        self.counts: dict[str, int | None] = {}
        self.positions: Positions = {}

    def messages(self) -> list[bytes]:
        for reason in self.counts:
            TAIL_DROPPED.labels(reason).inc()
        return [named(Dropped(count, reason), self.positions) for reason, count in self.counts.items()]


class Listener:
    """`holds`: are these events wanted? `positions`: what it has been shown, by partition."""

    def __init__(self, project_id: str, customer_identifier: str | None, holds: Test) -> None:
        self.project_id = project_id
        self.positions: Positions = {}
        self._customer_identifier = customer_identifier
        self._holds = holds
        self._queue: deque[bytes | _Gap] = deque()
        self._queued_bytes = 0
        self._end = ""
        self._changed = asyncio.Event()
        self._was_taken = asyncio.Event()

    def wants(self, event: Mapping[str, object]) -> bool:
        """Within its key's bounds and its filters?"""
        customer = self._customer_identifier
        return (customer is None or event["customer_identifier"] == customer) and self._holds(event)

    async def taken(self, seconds: float) -> None:
        """Return when it has taken most of what is queued, or after `seconds`."""
        if self._queued_bytes <= MAX_QUEUED_BYTES // 4:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._was_taken.clear()
                await self._was_taken.wait()  # who takes, takes all

    def show_some(self, lines: list[bytes]) -> None:
        """The first of what it wants of one entry."""
        for line in lines:
            self._put(message(line, None))

    def show(self, lines: list[bytes], positions: Positions) -> None:
        """All that it wants of one entry, or the rest of that. Up to `positions` it is shown all then."""
        self.show_some(lines[:-1])
        self.positions = {**self.positions, **positions}
        for line in lines[-1:]:
            self._put(message(line, self.positions))

    def skip_to(self, partition: int, since: EntryId) -> None:
        """What lies before is not remembered: it is missing, unless this has been shown it."""
        if self.positions[partition] < since:
            self.miss(None, RESUMED)
            self.positions = {**self.positions, partition: since}

    def miss(self, count: int | None, reason: str) -> None:
        """`count` events are missing here; None: nobody can tell how many."""
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, _Gap):
            last = _Gap()
            self._queue.append(last)
            self._queued_bytes += GAP_BYTES
        so_far = last.counts.get(reason, 0)
        last.counts[reason] = None if count is None or so_far is None else so_far + count
        last.positions = self.positions
        self._changed.set()

    def end(self, reason: str) -> None:
        """Nothing follows what is queued by now."""
        self._end = self._end or reason
        self._changed.set()

    @property
    def ends(self) -> str:
        """The reason, once there is one."""
        return self._end

    async def take(self, seconds: float) -> list[bytes]:
        """What waits, all of it; nothing after `seconds` without anything new, or at the end."""
        if not self._queue and not self._end:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        found: list[bytes] = []
        for one in self._queue:
            if isinstance(one, _Gap):
                found += one.messages()
            else:
                found.append(one)
        TAIL_EVENTS.inc(sum(not isinstance(one, _Gap) for one in self._queue))
        self._queue.clear()
        self._queued_bytes = 0
        self._was_taken.set()
        return found

    def _put(self, piece: bytes) -> None:
        if self._queued_bytes + len(piece) > MAX_QUEUED_BYTES:
            self.miss(1, SLOW)
            return
        self._queue.append(piece)
        self._queued_bytes += len(piece)
        self._changed.set()
