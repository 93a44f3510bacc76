"""Dead letters that tombstones mean are given up. Also those that nobody can read, where they name somebody.

An unreadable letter is an entry of the stream that no version of this program could decode, with the events
of whoever shared it. Whom a tombstone names stands in its bytes as it is, since nothing there is compressed:
a letter with the name in it goes, with all that is in it; one without it holds nothing of that customer. What
a tombstone with filters means cannot be told of such letters: they are counted, and left to the operator.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog
from redis.asyncio import Redis

from app import dead_letter, fates
from app.dead_letter import DeadLetter
from app.ledger import HOUR_MS, encode_counts, split_bucket
from app.ledger_reader import LedgerReader
from app.store import Store
from app.stream import Keys
from app.stream_scripts import COPY_DEAD, PURGE, REPLACE_DEAD
from app.tombstone import FOREVER_MS, Tombstone
from workers.letters import LETTERS_A_READ, payloads
from workers.tombstones import Tombstones

SECONDS = 30.0

log = structlog.get_logger()


class Letters:
    """Over all partitions, those of other queues too, under whatever name letters lie there. Methods raise
    redis_client.UNREACHABLE, StoreError and plan.Halted."""

    def __init__(self, redis: Redis, store: Store, reader: LedgerReader, tombstones: Tombstones) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._tombstones = tombstones
        self._purge = redis.register_script(PURGE)
        self._copy = redis.register_script(COPY_DEAD)
        self._replace = redis.register_script(REPLACE_DEAD)

    async def purge(self, named: Sequence[Tombstone]) -> tuple[int, dict[str, int]]:
        """Give up what any tombstone means. How many went, and how many letters each of `named` may mean that
        cannot be read."""
        await self._tombstones.refresh()
        purged = 0
        doubtful: dict[str, int] = {}
        for keys in await self._reader.everywhere():
            async for entry_id, letter in self._letters(keys):
                erasure = self._erasure(letter, named)
                if erasure:
                    await self._give_up(keys, entry_id, letter, erasure)
                    purged += 1
                elif letter.record is None:
                    for one in named:
                        if one.customers is None and _may_hold(letter, one):
                            doubtful[one.id] = doubtful.get(one.id, 0) + 1
        return purged, doubtful

    async def forget(self) -> bool:
        """Leave nothing of what was given up in Redis's memory. False when letters come and go just now."""
        for keys in await self._reader.everywhere():
            names = [keys.dead, f"{keys.dead}:copy"]
            after = "-" if await self._redis.xlen(keys.dead) else ""
            while after:
                after = (await self._copy(keys=names, args=[after, LETTERS_A_READ])).decode()
            if not int(await self._replace(keys=names)):
                return False
        return True

    def _erasure(self, letter: DeadLetter, named: Sequence[Tombstone]) -> str:
        if letter.record is not None:
            return self._tombstones.erasure_of(letter.record)
        return next((one.id for one in named if _may_hold(letter, one) and _is_meant(letter, one)), "")

    async def _give_up(self, keys: Keys, entry_id: str, letter: DeadLetter, erasure: str) -> None:
        record = letter.record
        if record is not None:
            fate = fates.erased(
                *(record.unique_req_id, record.project_id, erasure, "dead_letters", record.time_recorded)
            )
            await fates.write(self._store, [fate], timeout_seconds=SECONDS)
        else:
            log.warning("an unreadable dead letter is given up to an erasure", erasure=erasure)
        identity = "" if record is None else record.unique_req_id.hex()
        await self._purge(
            keys=[keys.dead, keys.dead_ids, keys.ledger, keys.hours],
            args=[entry_id, identity, encode_counts(dead_letter.counts(letter))],
        )

    async def _letters(self, keys: Keys) -> AsyncIterator[tuple[str, DeadLetter]]:
        async for entry_id, payload in payloads(self._redis, keys):
            try:
                yield entry_id, dead_letter.decode(payload)
            except msgspec.DecodeError:  # no drain of ours wrote it
                yield entry_id, DeadLetter(dead_letter.UNREADABLE, 0, "", None, payload)


def _may_hold(letter: DeadLetter, one: Tombstone) -> bool:
    """May an unreadable letter hold what `one` means? Its edge counted of which projects it is, and when."""
    counts = dead_letter.counts(letter)
    if not counts:
        return one.project_id.encode() in letter.payload
    return any(
        project_id == one.project_id and (hour or 0) * HOUR_MS <= one.up_to_ms
        for project_id, hour in map(split_bucket, counts)
    )


def _is_meant(letter: DeadLetter, one: Tombstone) -> bool:
    """Do the bytes hold a customer's identifier, as a key was bound to it or as JSON may write it? Or is all
    that was counted of a project that is deleted?"""
    if one.up_to_ms == FOREVER_MS:
        return {split_bucket(where)[0] for where in dead_letter.counts(letter)} == {one.project_id}
    return any(
        text.encode() in letter.payload
        for customer in one.customers or ()
        for text in (customer, json.dumps(customer)[1:-1], json.dumps(customer, ensure_ascii=False)[1:-1])
    )
