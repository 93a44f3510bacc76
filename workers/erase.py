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
from workers.marks import Mark, Marks

EVERY_SECONDS = 20.0
DELETE_SECONDS = 600.0
TABLES = ("event_ids", "fates", "events")  # all that name a project

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
            if await self._marks.left(self._taken[project_id]):
                continue
            number = await self._erase(project_id)
            if number is not None:
                await self._redis.srem(registry_scripts.DELETED, project_id)
                del self._taken[project_id]
                await self._tell(project_id, number)
                log.info("events of a deleted project erased", project_id=project_id)
                erased.append(project_id)
        return erased

    async def _erase(self, project_id: str) -> int | None:
        """How many stored events went; None while something of the project is left."""
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
        left = await self._store.ask("SELECT count() FROM events WHERE project_id = {project:String}", which)
        if left.rows != [[0]]:
            return None
        moved = 0
        for mover, counts in zip(movers, seen, strict=True):
            moved += await mover.move(counts, ERASED)
        await self._letters.purge([of_project("", project_id)])
        is_left = any([await mover.stored(project_id) for mover in movers])
        return None if is_left else moved

    async def _tell(self, project_id: str, number: int) -> None:
        """What is still to be proven is the eraser's (`workers.eraser`). A project that was deleted by a
        former version has no report."""
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
        report.matched = report.counted.store = report.counted.store + number
        report.rows_gone_at, report.remaining.store = now_ms, 0
        clean = Open(project_id, decode_open(cast(bytes, open_)).up_to_ms, "clean", now_ms)
        await self._mark_project(
            keys=[erasure_scripts.CLEAN, erasure_scripts.OPEN, erasure_scripts.report(erasure_id)],
            args=[
                *(erasure_id, tombstone.encode(of_project(erasure_id, project_id))),
                *(encode_open(clean), encode_report(report)),
            ],
        )
