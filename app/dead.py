"""Dead letters to work with: list, find, put back, give up. Over all partitions, for operators and projects.

Who may see what is the caller's to say (`Wanted`): `workers.dead` for the operator, `app.manage_dead` for a
project. What a letter is: `app.dead_letter`. What moves it is one script each (`app.stream_scripts`), so a
crash in between, or two operators at once, change nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import dead_letter, fates, ledger
from app.dead_letter import DeadLetter, Found, Wanted
from app.envelope import read_envelope
from app.fates import Fate
from app.partition import Freshness
from app.pressure import reached_mark
from app.settings import Settings
from app.store import Store
from app.stream import Keys, choose_partition
from app.stream_scripts import PURGE, REPLAY

LETTERS_A_READ = 32  # one may hold an unreadable entry of a megabyte
LETTERS_A_SCAN = 2000  # looked at for one page: a project's letters may lie between many of others
LETTERS_A_BATCH = 100  # moved with one round trip
MISPLACED = "the number of partitions has changed since; send its body again, then purge it"
EVENT_ADDRESS = re.compile(r"[0-9a-f]{32}")
PLACE_ADDRESS = re.compile(r"(\d{1,3})/(\d{1,19}-\d{1,19})")
CURSOR = re.compile(r"(\d{1,3})\.(\d{1,19}-\d{1,19})?\.(\d{1,15})")


class Page(msgspec.Struct, frozen=True):
    """Letters in the order in which they were set aside, by partition. `cursor` is "" on the last page."""

    found: list[Found]
    cursor: str


class Replayed(msgspec.Struct):
    """How many went back, and which did not, with the reason."""

    done: int
    refused: list[tuple[str, str]]


class DeadLetters:
    """The dead letters of all partitions. Methods raise redis_client.UNREACHABLE when Redis is."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        producer = settings.producer
        self._redis = redis
        self._queue, self._dead_letter_queue = producer.queue, settings.consumer.dead_letter_queue
        self._shards = producer.shards
        self._keys: list[Keys] = []
        self.watch(producer.shards)
        self._freshness = Freshness(redis, producer.queue, producer.shards)
        self._max_backlog = producer.max_backlog
        self._insert_seconds = settings.store.insert_timeout
        self._replay = redis.register_script(REPLAY)
        self._purge = redis.register_script(PURGE)

    def watch(self, most: int) -> None:
        """Look at so many partitions from now on: there were more once, and what died there lies there."""
        self._keys += [
            Keys(self._queue, number, self._dead_letter_queue) for number in range(len(self._keys), most)
        ]

    async def page(self, wanted: Wanted, cursor: str, limit: int) -> Page:
        """Up to `limit` letters from `cursor` ("": the beginning) on.

        May be fewer, even none, while there are more: a page looks at no more than LETTERS_A_SCAN. All pages
        together show what was there at the first one: what is set aside meanwhile, also a letter that was
        put back and died again, does not appear. Errors: ValueError for a cursor that is not one of ours.
        """
        partition, after, until = await self._place(cursor)
        found: list[Found] = []
        scanned = 0
        while partition < len(self._keys):
            first = f"({after}" if after else str(wanted.since_ms)
            rows = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                await self._redis.xrange(
                    self._keys[partition].dead, min=first, max=str(until), count=LETTERS_A_READ
                ),
            )
            for entry_id, fields in rows:
                after = entry_id.decode()
                scanned += 1
                letter = _read(fields)
                if wanted.admits(letter):
                    found.append(Found(partition, after, letter))
                    if len(found) >= limit:
                        return Page(found, f"{partition}.{after}.{until}")
            if len(rows) < LETTERS_A_READ:
                partition, after = partition + 1, ""
            elif scanned >= LETTERS_A_SCAN:
                return Page(found, f"{partition}.{after}.{until}")
        return Page(found, "")

    async def find(self, address: str) -> Found | None:
        """The letter of that address, if there is one now. Errors: ValueError for what is no address."""
        if match := PLACE_ADDRESS.fullmatch(address):
            partition = int(match[1])
            return await self._at(partition, match[2]) if partition < len(self._keys) else None
        if not EVENT_ADDRESS.fullmatch(address):
            raise ValueError("is neither 32 lower-case hex digits nor <partition>/<id>")
        pipeline = self._redis.pipeline(transaction=False)
        for keys in self._keys:
            pipeline.hget(keys.dead_ids, address)
        places = cast("list[bytes | None]", await pipeline.execute())
        for partition, place in enumerate(places):
            if place is not None and (found := await self._at(partition, place.decode())):
                return found
        return None

    async def refusal(self) -> str:
        """Why no letter may go back into the stream now: the marks at which edges stop too. "" if none."""
        return await reached_mark(self._freshness, self._max_backlog)

    async def replay(self, found: Sequence[Found]) -> Replayed:
        """Put letters back into their partitions' streams; ask `refusal` before. Repeating it is harmless."""
        replayed = Replayed(0, [])
        at_home: list[Found] = []
        for one in found:
            if self._is_at_home(one):
                at_home.append(one)
            else:
                replayed.refused.append((one.address, MISPLACED))
        for some in _batches(at_home):
            pipeline = self._redis.pipeline(transaction=False)
            for one in some:
                keys = self._keys[one.partition]
                await self._replay(
                    keys=[keys.dead, keys.dead_ids, keys.entries, keys.ledger, keys.hours],
                    args=[one.id, one.unique_req_id, dead_letter.to_entry(one.letter), _counts(one)],
                    client=pipeline,
                )
            replayed.done += sum(bool(entry_id) for entry_id in await pipeline.execute())
        return replayed

    async def purge(self, found: Sequence[Found], store: Store) -> int:
        """Give letters up; how many. The store is told first, so that receipts can tell afterwards.

        Errors: StoreError; then nothing was purged of the batch at hand.
        """
        purged = 0
        for some in _batches(found):
            erased = [_fate(one) for one in some if one.letter.record is not None]
            if erased:
                await fates.write(store, erased, timeout_seconds=self._insert_seconds)
            purged += await self.remove(some)
        return purged

    async def remove(self, found: Sequence[Found]) -> int:
        """`purge` without a trace in the store: for a project that is being erased as a whole."""
        removed = 0
        for some in _batches(found):
            pipeline = self._redis.pipeline(transaction=False)
            for one in some:
                keys = self._keys[one.partition]
                await self._purge(
                    keys=[keys.dead, keys.dead_ids, keys.ledger, keys.hours],
                    args=[one.id, one.unique_req_id, _counts(one)],
                    client=pipeline,
                )
            removed += sum(map(int, await pipeline.execute()))
        return removed

    async def _place(self, cursor: str) -> tuple[int, str, int]:
        """Partition, id behind which to go on, and the moment of the first page."""
        if not cursor:
            seconds, microseconds = await self._redis.time()
            return 0, "", int(seconds) * 1000 + int(microseconds) // 1000
        match = CURSOR.fullmatch(cursor)
        if match is None:
            raise ValueError("is not a cursor of an answer")
        return int(match[1]), match[2] or "", int(match[3])

    async def _at(self, partition: int, entry_id: str) -> Found | None:
        rows = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]",
            await self._redis.xrange(self._keys[partition].dead, min=entry_id, max=entry_id, count=1),
        )
        return Found(partition, entry_id, _read(rows[0][1])) if rows else None

    def _is_at_home(self, found: Found) -> bool:
        """Do copies of the event still come to this partition? Elsewhere they would not be recognised."""
        record = found.letter.record
        event_id = "" if record is None else read_envelope(record).event_id
        if record is None or not event_id:
            return True
        home = choose_partition(self._shards, record.project_id, event_id, record.request_id.hex())
        return home == found.partition


def _read(fields: dict[bytes, bytes]) -> DeadLetter:
    payload = fields.get(b"d", b"")
    try:
        return dead_letter.decode(payload)
    except msgspec.DecodeError as error:  # one that nobody can read must not hide the others
        return DeadLetter(f"{dead_letter.UNREADABLE}: no dead letter of ours: {error}", 0, "", None, payload)


def _counts(found: Found) -> str:
    return ledger.encode_counts(dead_letter.counts(found.letter))


def _fate(found: Found) -> Fate:
    record = found.letter.record
    if record is None:
        raise ValueError("an unreadable entry has no receipt")
    customer = read_envelope(record).customer_identifier
    return Fate(
        record.unique_req_id, record.project_id, customer, ledger.ERASED, "purged", record.time_recorded
    )


def _batches(found: Sequence[Found]) -> Iterator[Sequence[Found]]:
    for start in range(0, len(found), LETTERS_A_BATCH):
        yield found[start : start + LETTERS_A_BATCH]
