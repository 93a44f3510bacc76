"""Reads one partition's stream as it grows, without a trace: no consumer group, no lease, nothing written.

The drain trims what it has stored, often within ten milliseconds of the append. Whoever reads beside it can
be too late: then the drain's mark is ahead of the last entry seen here. Mark and entries are read in one
transaction, so that no gap goes unnoticed.
Next reader: `app.tail_reader`, which shows what is read.
"""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.ledger import decode_counts, split_bucket
from app.stream import Keys, Record, split_group
from app.stream_scripts import READ
from app.tail_frames import EntryId, parse_entry

READ_COUNT, READ_BYTES = 200, 1024 * 1024
BLOCK_MS = 500


class Entry(msgspec.Struct, frozen=True):
    """`payload` is a group of requests, `counts` what the ledger counts of it (`app.ledger`)."""

    id: EntryId
    payload: bytes
    counts: str

    def records(self) -> list[Record]:
        """None where they cannot be read: the drain sets it aside."""
        try:
            return split_group(self.payload)
        except msgspec.DecodeError:
            return []

    def projects(self) -> set[str]:
        """Whose events it has."""
        try:
            return {split_bucket(where)[0] for where in decode_counts(self.counts)}
        except ValueError:
            return set()


class Follower:
    """Methods raise redis_client.UNREACHABLE. `position`: the last entry that was read, or passed over."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self.position: EntryId = (0, 0)

    async def begin(self) -> None:
        """Go on behind the newest entry; from here on nothing is missed, or it is known to be."""
        try:
            about = await self._redis.xinfo_stream(self._keys.entries)
        except ResponseError:  # there never was an entry
            self.position = (0, 0)
            return
        self.position = parse_entry(about["last-generated-id"])

    async def wait(self) -> None:
        """Until there is an entry behind `position`, or BLOCK_MS."""
        await self._redis.xread({self._keys.entries: self._after()}, count=1, block=BLOCK_MS)

    async def read(self) -> tuple[list[Entry], bool]:
        """The next entries, without waiting, and whether others before them have been missed.

        `position` stays: `advance` when they have been shown.
        """
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.eval(READ, 1, self._keys.entries, f"({self._after()}", str(READ_COUNT), str(READ_BYTES))
            pipeline.hget(self._keys.progress, "acknowledged")
            flat, acknowledged = await pipeline.execute()
        found = [
            Entry(parse_entry(entry_id), payload, counts.decode("utf-8", "replace"))
            for entry_id, payload, counts, _ in zip(*[iter(flat)] * 4, strict=True)
        ]
        return found, acknowledged is not None and parse_entry(acknowledged) > self.position

    def advance(self, to: EntryId) -> None:
        """Everything up to there has been shown, or is known to be missing."""
        self.position = max(self.position, to)

    def _after(self) -> str:
        return f"{self.position[0]}-{self.position[1]}"
