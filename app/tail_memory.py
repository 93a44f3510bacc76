"""What the reader of the tail remembers of a partition, so that a client that was cut off can go on. Bounded.

Next reader: `app.tail_reader`.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from app.tail_follower import Entry, Follower
from app.tail_frames import EntryId

MAX_SEQUENCE = 10**15 - 1  # beyond any that Redis gives within a millisecond
ENTRIES_AT_ONCE = 256  # for who catches up: searched for so many at a time, and kept for it beyond their time


def before(entry: EntryId) -> EntryId:
    """The largest id that is smaller, in the form of one: clients are told it, and bring it back."""
    milliseconds, sequence = entry
    return (milliseconds, sequence - 1) if sequence else (milliseconds - 1, MAX_SEQUENCE)


class Followed:
    """One partition: its follower, and the last entries, of which none behind `since` is left out."""

    def __init__(self, number: int, follower: Follower, max_bytes: int) -> None:
        self.number = number
        self._max_bytes = max_bytes
        self.follower = follower
        self.since: EntryId = (0, 0)
        self.behind_since = 0.0  # monotonic seconds; 0 unless each read since then has left some
        self.begins_anew = False
        self.entries: deque[Entry] = deque()
        self._bytes = 0

    async def begin(self) -> None:
        await self.follower.begin()
        self.begins_anew = False
        self.forget()

    def forget(self, until: EntryId | None = None) -> None:
        """Nothing before the entry `until` is remembered, or nothing up to the follower's position."""
        self.entries.clear()
        self._bytes, self.since = 0, self.follower.position
        if until is not None:
            self.since = max(self.since, before(until))

    def behind(self, position: EntryId) -> list[Entry]:
        """The first remembered entries behind `position`."""
        return list(islice((entry for entry in self.entries if entry.id > position), ENTRIES_AT_ONCE))

    def remember(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._bytes += len(entry.payload)
        while self._bytes > self._max_bytes and len(self.entries) > 1:
            oldest = self.entries.popleft()
            self._bytes -= len(oldest.payload)
            self.since = oldest.id
