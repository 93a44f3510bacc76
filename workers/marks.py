"""Has everything that was in the streams at some moment been acknowledged by now?

A batch is planned with every tombstone that was there when its entries were read (`workers.tombstones`). So
an event may only have been planned without a tombstone if its entry was in the stream when the tombstone
came. When all those entries are gone, whatever was to become of them has: their rows are in the store, or
they are dead letters, and no more of them will come. By the ids of entries, and by nobody's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NewType, cast

from redis.asyncio import Redis

from app.ledger_reader import LedgerReader
from app.stream import Keys

Mark = NewType("Mark", dict[str, tuple[int, int]])  # stream -> id of its last entry


class Marks:
    """Over all partitions, former ones too. Methods raise redis_client.UNREACHABLE."""

    def __init__(self, redis: Redis, reader: LedgerReader) -> None:
        self._redis = redis
        self._reader = reader

    async def take(self) -> Mark:
        """The ends of the streams now: of this queue, whose ledger says what is in the store."""
        return await self._ends([keys for _, keys in await self._reader.partitions()])

    async def take_everywhere(self) -> Mark:
        """Of other queues too: what is in them may still come to be stored."""
        return await self._ends(await self._reader.everywhere())

    async def _ends(self, partitions: Iterable[Keys]) -> Mark:
        ends = {keys.entries: await self._one(keys.entries, last=True) for keys in partitions}
        return Mark({stream: end for stream, end in ends.items() if end is not None})

    async def left(self, mark: Mark) -> int:
        """In how many partitions something is left from before `mark`."""
        left = 0
        for stream, end in mark.items():
            first = await self._one(stream, last=False)
            left += first is not None and first <= end
        return left

    async def each_left(self, taken: Mapping[str, Mark]) -> dict[str, int]:
        """`left` of each; many share a mark, which is looked at once."""
        marks = {id(mark): mark for mark in taken.values()}
        left = {key: await self.left(mark) for key, mark in marks.items()}
        return {name: left[id(mark)] for name, mark in taken.items()}

    async def _one(self, stream: str, *, last: bool) -> tuple[int, int] | None:
        look = self._redis.xrevrange if last else self._redis.xrange
        rows = cast("list[tuple[bytes, object]]", await look(stream, count=1))
        if not rows:
            return None
        milliseconds, _, sequence = rows[0][0].decode().partition("-")
        return int(milliseconds), int(sequence)
