"""The drain's end of the stream: lease, read, plan, acknowledge. One object for one partition.

Every write goes through a script that compares the epoch, so a former owner that wakes up late changes
nothing. The scripts are in `app.stream_scripts`; the loop that calls these in order is `workers.drain`.
Also here: `Freshness`, the edges' read-only view of the same keys.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app import stream_scripts as scripts
from app.stream import Keys

READ_BYTES = 1024 * 1024


class LeaseLost(Exception):
    """Another drain owns the partition now; whatever this one has in hand is that one's business."""


class DeadLettersFull(Exception):
    """The partition holds as many dead letters as it may: nothing is acknowledged until some are gone."""


class Entry(msgspec.Struct, frozen=True):
    """One stream entry as read: `id` like `1624910874832-0`, `payload` a group of records.

    `counts`: what the edge counted in the ledger for it (`app.ledger.encode_counts`). `was_dead`: it was one
    of the dead letters, and was put back.
    """

    id: str
    payload: bytes
    counts: str = ""
    was_dead: bool = False


class Partition:
    """One partition, as its owner uses it. Methods raise redis_client.UNREACHABLE when Redis is."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        slot: str,
        redis_version: tuple[int, int],
        *,
        max_dead_letters: int = 100_000,
    ) -> None:
        self._redis = redis
        self._max_dead_letters = max_dead_letters
        self._keys = keys
        self._slot = slot
        self._incarnation = os.urandom(8).hex()
        self._owner = f"{slot}/{self._incarnation}"
        self._epoch = 0
        self._has_owned = False
        self._scripts = {
            name: redis.register_script(scripts.with_oom_allowed(script, redis_version))
            for name, script in (
                ("acquire", scripts.ACQUIRE),
                ("read", scripts.READ),
                ("renew", scripts.RENEW),
                ("release", scripts.RELEASE),
                ("save_plan", scripts.SAVE_PLAN),
                ("acknowledge", scripts.ACKNOWLEDGE),
            )
        }

    @property
    def owner(self) -> str:
        """What the lease says while it is ours."""
        return self._owner

    @property
    def epoch(self) -> int:
        """The epoch of the lease that this process took last."""
        return self._epoch

    async def acquire(self, lease_ms: int) -> bool:
        """Take the lease, or keep it. True when it is ours.

        The first time also from a former process of the same slot, whose lease still runs.
        """
        self._epoch = int(
            await self._scripts["acquire"](
                keys=[self._keys.lease, self._keys.epoch],
                args=[self._slot, self._incarnation, lease_ms, int(not self._has_owned)],
            )
        )
        self._has_owned = self._has_owned or self._epoch > 0
        return self._epoch > 0

    async def renew(self, lease_ms: int) -> None:
        """Prolong the lease, and prove that it is still ours. Errors: LeaseLost."""
        renewed = await self._scripts["renew"](
            keys=[self._keys.lease, self._keys.epoch], args=[self._owner, self._epoch, lease_ms]
        )
        if not int(renewed):
            raise LeaseLost

    async def release(self) -> None:
        """Give the lease back, so that another drain need not wait for its end."""
        await self._scripts["release"](keys=[self._keys.lease], args=[self._owner])

    async def wait(self, block_ms: int) -> bool:
        """True as soon as the stream holds an entry, False after `block_ms` without one.

        From the beginning, because everything in the stream is unacknowledged; `$` would miss what
        arrived a moment before.
        """
        return bool(await self._redis.xread({self._keys.entries: "0-0"}, count=1, block=block_ms))

    async def read(self, after: str | None, count: int, max_bytes: int = READ_BYTES) -> list[Entry]:
        """Entries in order, from the oldest or behind the id `after`: none only when there are no more.

        Up to `count`, and up to `max_bytes` of payload unless the first alone is larger.
        """
        begin = f"({after}" if after else "-"
        flat = await self._scripts["read"](keys=[self._keys.entries], args=[begin, count, max_bytes])
        return [
            Entry(entry.decode(), payload, counts.decode("utf-8", "replace"), bool(was_dead))
            for entry, payload, counts, was_dead in zip(*[iter(flat)] * 4, strict=True)
        ]

    async def read_range(self, first: str, last: str) -> list[Entry]:
        """The entries of a plan, both ends included."""
        rows = await self._redis.xrange(self._keys.entries, min=first, max=last)
        return _entries(rows)

    async def load_plan(self) -> bytes | None:
        """The plan that some owner left unfinished, or None."""
        return cast("bytes | None", await self._redis.get(self._keys.plan))

    async def save_plan(self, payload: bytes) -> None:
        """Write the plan. Nothing is inserted that is not in it. Errors: LeaseLost."""
        saved = await self._scripts["save_plan"](
            keys=[self._keys.epoch, self._keys.plan], args=[self._epoch, payload]
        )
        if not int(saved):
            raise LeaseLost

    async def acknowledge(
        self, last: str, changes: Mapping[str, int], dead: Sequence[tuple[str, bytes]]
    ) -> None:
        """Entries up to `last` are done.

        `changes`: field of the ledger's hours -> number of events that met this fate (`app.ledger`). `dead`:
        the dead letters, each with its unique_req_id as hex ("" for an unreadable entry) and its payload.
        Errors: LeaseLost, DeadLettersFull. One script: a dead letter that cannot be written blocks the rest.
        """
        milliseconds, _, sequence = last.partition("-")
        keep_from = f"{milliseconds}-{int(sequence) + 1}"
        keys = self._keys
        done = await self._scripts["acknowledge"](
            keys=[
                *(keys.epoch, keys.plan, keys.entries, keys.ledger),
                *(keys.hours, keys.dead, keys.dead_ids, keys.progress),
            ],
            args=[
                *(self._epoch, keep_from, last, self._max_dead_letters, len(changes)),
                *(part for change in changes.items() for part in change),
                *(part for letter in dead for part in letter),
            ],
        )
        if int(done) < 0:
            raise DeadLettersFull(
                f"there would be more than max_dead_letters = {self._max_dead_letters} dead letters in this "
                "partition; replay or purge some (`eventbunker dead`)"
            )
        if not int(done):
            raise LeaseLost

    async def prove_progress(self, now_ms: int) -> None:
        """Record that this owner has just read the stream and reached the store; for `/readyz`."""
        await self._record({"at": now_ms, "halted": ""})

    async def record_halt(self, reason: str) -> None:
        """Record that this owner acknowledges nothing, and why; the next proof of progress ends that."""
        await self._record({"halted": reason})

    async def _record(self, progress: dict[str, str | int]) -> None:
        said = {"owner": self._owner, "epoch": self._epoch, **progress}
        await self._redis.hset(self._keys.progress, mapping=dict(said.items()))


def _entries(rows: object) -> list[Entry]:
    # redis-py types its answers as everything they could be; without decoding they are bytes.
    pairs = cast("list[tuple[bytes, dict[bytes, bytes]]]", rows or [])
    return [
        Entry(
            *(entry_id.decode(), fields.get(b"r", b""), fields.get(b"c", b"").decode("utf-8", "replace")),
            was_dead=b"dead" in fields,
        )
        for entry_id, fields in pairs
    ]


class Standing(msgspec.Struct, frozen=True):
    """Whose a partition is ("" when nobody's), and whether anything is in it."""

    owner: str
    is_empty: bool


async def survey(redis: Redis, partitions: Sequence[Keys]) -> list[Standing]:
    """How each partition stands now, in one round trip. Errors: redis_client.UNREACHABLE."""
    async with redis.pipeline(transaction=False) as pipeline:
        for keys in partitions:
            pipeline.get(keys.lease)
            pipeline.xlen(keys.entries)
            pipeline.exists(keys.plan)
        answers = await pipeline.execute()
    return [
        Standing((owner or b"").decode(), not entries and not plan)
        for owner, entries, plan in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
    ]


class Lag(msgspec.Struct, frozen=True):
    """How far one partition's drain is behind. `proved_ms_ago` is None when no drain ever wrote.

    `halted`: why its drain acknowledges nothing. `is_retired`: events go to fewer partitions by now.
    """

    partition: int
    entries: int
    oldest_ms: int
    proved_ms_ago: int | None
    ledger: dict[str, int]
    halted: str = ""
    is_retired: bool = False


class Freshness:
    """What the edges may know of the drain: read-only, over all partitions."""

    def __init__(self, redis: Redis, queue: str, shards: int) -> None:
        self._redis = redis
        self._queue = queue
        self._shards = shards
        self._keys = [Keys(queue, partition) for partition in range(shards)]
        self._script = redis.register_script(scripts.FRESHNESS)

    def watch(self, most: int) -> None:
        """Look at so many partitions from now on: there were more once, and a late replay may fill them."""
        self._keys += [Keys(self._queue, partition) for partition in range(len(self._keys), most)]

    async def fresh_as_of(self) -> int:
        """Unix ms up to which every event that reached the stream is stored.

        Redis's clock, which also numbers the entries. Read it before the query runs.
        """
        return min(await asyncio.gather(*map(self._fresh, self._keys)))

    async def _fresh(self, keys: Keys) -> int:
        now, oldest = await self._script(keys=[keys.entries])
        # The same millisecond may still bring more, so it is not complete.
        return (int(oldest) or int(now)) - 1

    async def lag(self) -> list[Lag]:
        """Backlog, age and last proof of each partition. Errors: redis_client.UNREACHABLE."""
        return await asyncio.gather(*(self._lag(*one) for one in enumerate(self._keys)))

    async def _lag(self, partition: int, keys: Keys) -> Lag:
        pipeline = self._redis.pipeline(transaction=True)  # one moment: ledger and stream belong together
        pipeline.eval(scripts.FRESHNESS, 1, keys.entries)
        pipeline.xlen(keys.entries)
        pipeline.hmget(keys.progress, ["at", "halted"])
        pipeline.hgetall(keys.ledger)
        times, entries, (proved, halted), ledger = await pipeline.execute()
        now, oldest = map(int, times)
        return Lag(
            partition,
            entries,
            now - oldest if oldest else 0,
            now - int(proved) if proved else None,
            {fate.decode(): int(count) for fate, count in ledger.items()},
            (halted or b"").decode(),
            partition >= self._shards,
        )

    async def memory_share(self) -> float:
        """Used part of `maxmemory`, 0.0 to 1.0; 0.0 where Redis has no limit or does not tell."""
        try:
            memory = await self._redis.info("memory")
        except ResponseError:  # a managed Redis may refuse INFO
            return 0.0
        limit = int(memory.get("maxmemory", 0))
        return int(memory["used_memory"]) / limit if limit else 0.0
