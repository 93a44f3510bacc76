"""Erases the events of deleted projects: from the store and from the dead letters.

Deleting a project kills its keys at once, so nobody can write or read; what is stored goes here, within
minutes, long before the promised 24 hours. Every step may run twice, so several drains may run it at once
and a crash at any line only repeats work. A project is struck off when a count has found nothing left, and
the ledger says the same. What a spool brings back later, `workers.tidy` finds and marks anew.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from app import dead_letter, registry_scripts
from app.dead_letter import DeadLetter
from app.ledger import ERASED, encode_counts, split_bucket
from app.ledger_reader import LedgerReader
from app.partition import Freshness
from app.redis_client import UNREACHABLE
from app.store import Store, StoreError
from app.stream import Keys
from app.stream_scripts import PURGE

EVERY_SECONDS = 60.0
DELETE_SECONDS = 600.0
TABLES = ("events", "event_ids", "fates")  # all that name a project
DEAD_LETTERS_A_READ = 500

log = structlog.get_logger()


class ProjectEraser:
    """One for each drain process.

    `margin_ms`: how long after a deletion an edge may still append, since it may remember a key while Redis
    is away. What is drained later than that holds nothing of the project.
    """

    def __init__(
        self, redis: Redis, store: Store, reader: LedgerReader, freshness: Freshness, *, margin_ms: int
    ) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._purge = redis.register_script(PURGE)
        self._freshness = freshness
        self._margin_ms = margin_ms

    async def run(self, stop: asyncio.Event) -> None:
        """Look once a minute until `stop`; an outage only postpones."""
        while not stop.is_set():
            try:
                await self.erase_due()
            except (*UNREACHABLE, StoreError) as error:
                log.warning("erasure of deleted projects postponed", error=type(error).__name__)
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    async def erase_due(self) -> list[str]:
        """Erase the deleted projects whose last event must have been drained; their ids.

        Errors: UNREACHABLE, StoreError.
        """
        marked = cast("set[bytes]", await self._redis.smembers(registry_scripts.DELETED))
        erased = []
        for project_id in sorted(one.decode() for one in marked):
            if await self._is_due(project_id) and await self._erase(project_id):
                await self._redis.srem(registry_scripts.DELETED, project_id)
                log.info("events of a deleted project erased", project_id=project_id)
                erased.append(project_id)
        return erased

    async def _is_due(self, project_id: str) -> bool:
        deleted_at = await self._redis.hget(registry_scripts.project(project_id), "deleted_at")
        fresh = await self._freshness.fresh_as_of()
        return int(deleted_at or 0) + self._margin_ms < fresh

    async def _erase(self, project_id: str) -> bool:
        """True when nothing of the project is left."""
        which = {"project": project_id}
        movers = await self._reader.movers()
        # Before the rows go: only what is counted as stored now is known to be among them.
        seen = [await mover.stored(project_id) for mover in movers]
        for table in TABLES:
            await self._store.command(
                # A mutation rewrites the parts: the rows leave the disk, not only the answers.
                f"ALTER TABLE {table} DELETE WHERE project_id = {{project:String}}"
                " SETTINGS mutations_sync = 2",
                which,
                timeout_seconds=DELETE_SECONDS,
            )
        for _, keys in await self._reader.partitions():
            await self._purge_dead_letters(keys, project_id)
        left = await self._store.ask("SELECT count() FROM events WHERE project_id = {project:String}", which)
        if left.rows != [[0]]:
            return False
        for mover, counts in zip(movers, seen, strict=True):
            await mover.move(counts, ERASED)
        return not any([await mover.stored(project_id) for mover in movers])

    async def _purge_dead_letters(self, keys: Keys, project_id: str) -> None:
        after = "-"
        while True:
            rows = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                await self._redis.xrange(keys.dead, min=after, count=DEAD_LETTERS_A_READ),
            )
            for entry_id, fields in rows:
                letter = _letter(fields)
                if letter is not None and _is_all_of(letter, project_id):
                    await self._give_up(keys, entry_id.decode(), letter)
            if len(rows) < DEAD_LETTERS_A_READ:
                return
            after = f"({rows[-1][0].decode()}"

    async def _give_up(self, keys: Keys, entry_id: str, letter: DeadLetter) -> None:
        identity = letter.record.unique_req_id.hex() if letter.record is not None else ""
        await self._purge(
            keys=[keys.dead, keys.dead_ids, keys.ledger, keys.hours],
            args=[entry_id, identity, encode_counts(dead_letter.counts(letter))],
        )


def _letter(fields: dict[bytes, bytes]) -> DeadLetter | None:
    """None for what no drain of ours wrote: it must not stop an erasure."""
    try:
        return dead_letter.decode(fields.get(b"d", b""))
    except msgspec.DecodeError:
        return None


def _is_all_of(letter: DeadLetter, project_id: str) -> bool:
    """Is every event of this letter the project's? An unreadable entry may hold others' events too."""
    return {split_bucket(where)[0] for where in dead_letter.counts(letter)} == {project_id}
