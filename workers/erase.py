"""Erases the events of deleted projects: from the store and from the dead letters.

Deleting a project kills its keys at once, so nobody can write or read, and leaves a tombstone, so drains
store nothing of it any more (`workers.tombstones`), however late a spool brings it. What is stored goes here,
all of it by one condition; then it is proven gone like any erasure (`workers.erase_proof`). Every step may
run twice, so several drains may run it at once and a crash at any line only repeats work.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import structlog
from redis.asyncio import Redis

from app import erasure_scripts, registry_scripts, tombstone
from app.erasure_report import Open, decode_open, decode_report, encode_open, encode_report
from app.ledger import ERASED
from app.ledger_reader import LedgerReader
from app.store import Store
from app.tombstone import of_project
from workers.chores import repeat
from workers.erase_letters import Letters
from workers.erase_round import decode_round
from workers.marks import Mark, Marks

EVERY_SECONDS = 20.0
DELETE_SECONDS = 600.0
TABLES = ("event_ids", "fates", "events")  # all that name a project, but for what its erasures are counted by
_DELETE = {
    table: f"ALTER TABLE {table} DELETE WHERE project_id = {{project:String}}"
    + (f" AND fate != '{ERASED}'" if table == "fates" else "")
    # A mutation rewrites the parts: the rows leave the disk, not only the answers.
    + " SETTINGS mutations_sync = 2"
    for table in TABLES
}

log = structlog.get_logger()


class ProjectEraser:
    """One for each drain process."""

    def __init__(
        self, redis: Redis, store: Store, reader: LedgerReader, letters: Letters, marks: Marks
    ) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._letters = letters
        self._marks = marks
        self._taken: dict[str, Mark] = {}
        self._mark_project = redis.register_script(erasure_scripts.PROJECT_CLEAN)

    async def run(self, stop: asyncio.Event) -> None:
        """Look a few times a minute until `stop`."""
        await repeat(stop, "erasing deleted projects", self.erase_due, EVERY_SECONDS)

    async def erase_due(self) -> list[str]:
        """Erase the deleted projects of which no row can come any more; their ids.

        Errors: UNREACHABLE, StoreError, Halted.
        """
        marked = cast("set[bytes]", await self._redis.smembers(registry_scripts.DELETED))
        erased = []
        for project_id in sorted(one.decode() for one in marked):
            if project_id not in self._taken:
                self._taken[project_id] = await self._marks.take()
            if await self._marks.left(self._taken[project_id]) or await self._is_in_round(project_id):
                continue
            if await self._erase(project_id):
                await self._redis.srem(registry_scripts.DELETED, project_id)
                del self._taken[project_id]
                log.info("events of a deleted project erased", project_id=project_id)
                erased.append(project_id)
        return erased

    async def _is_in_round(self, project_id: str) -> bool:
        """Does a round remove rows of it just now? It counts them, and no other begins meanwhile."""
        payload = await self._redis.get(erasure_scripts.ROUND)
        return payload is not None and project_id in decode_round(payload).erasures.values()

    async def _erase(self, project_id: str) -> bool:
        """False while something of the project is left."""
        which = {"project": project_id}
        movers = await self._reader.movers()
        # Before the rows go: only what is counted as stored now is known to be among them.
        seen = [await mover.stored(project_id) for mover in movers]
        await self._tell(project_id, sum(sum(counts.values()) for counts in seen))
        for statement in _DELETE.values():
            await self._store.command(statement, which, timeout_seconds=DELETE_SECONDS)
        left = await self._store.ask("SELECT count() FROM events WHERE project_id = {project:String}", which)
        if left.rows != [[0]]:
            return False
        for mover, counts in zip(movers, seen, strict=True):
            await mover.move(counts, ERASED)
        await self._letters.purge([of_project("", project_id)])
        if any([await mover.stored(project_id) for mover in movers]):
            return False
        await self._tell(project_id, 0, is_gone=True)
        return True

    async def _tell(self, project_id: str, stored: int, *, is_gone: bool = False) -> None:
        """How many events are stored, before they go: nothing is added any more, so the first look counts all
        of them, and later ones what a crash had left. What is still to be proven once the rows are gone is
        the eraser's (`workers.eraser`). A project that was deleted by a former version has no report.
        """
        erasure = await self._redis.hget(registry_scripts.project(project_id), "erasure")
        if erasure is None:
            return
        erasure_id = cast(bytes, erasure).decode()
        payload = await self._redis.get(erasure_scripts.report(erasure_id))
        open_ = await self._redis.hget(erasure_scripts.OPEN, erasure_id)
        if payload is None or open_ is None:
            return
        now_ms = time.time_ns() // 1_000_000
        report = decode_report(payload)
        report.matched = report.counted.store = max(report.counted.store, stored)
        if not is_gone:
            if stored:
                await self._redis.set(erasure_scripts.report(erasure_id), encode_report(report))
            return
        report.rows_gone_at, report.remaining.store = now_ms, 0
        clean = Open(project_id, decode_open(cast(bytes, open_)).up_to_ms, "clean", now_ms)
        await self._mark_project(
            keys=[erasure_scripts.CLEAN, erasure_scripts.OPEN, erasure_scripts.report(erasure_id)],
            args=[
                *(erasure_id, tombstone.encode(of_project(erasure_id, project_id))),
                *(encode_open(clean), encode_report(report)),
            ],
        )
