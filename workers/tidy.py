"""What must be done now and then so that nothing grows for ever: old hours, canaries, events, late arrivals.

Each drain does all of it; every step may run twice or at once, and a crash at any line only repeats work.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from redis.asyncio import Redis

from app import canary, ledger, registry_scripts
from app.ledger_reader import LedgerReader
from app.store import Store, Value
from workers.chores import repeat
from workers.retention import Retention

EVERY_SECONDS = 300.0
DELETE_SECONDS = 600.0
CANARY_HOURS = 24  # kept; deleted once a day, when the oldest is twice as old

log = structlog.get_logger()


class Tidy:
    """One for each drain process."""

    def __init__(
        self, redis: Redis, store: Store, reader: LedgerReader, retention: Retention | None = None
    ) -> None:
        """`retention`: None where events are kept for ever."""
        self._redis = redis
        self._store = store
        self._reader = reader
        self._retention = retention

    async def run(self, stop: asyncio.Event) -> None:
        """Every few minutes until `stop`."""
        await repeat(stop, "tidying", lambda: self.tidy(int(time.time()) // 3600), EVERY_SECONDS)

    async def tidy(self, hour: int) -> None:
        """All of it, as of `hour` since 1970. Errors: UNREACHABLE, StoreError."""
        await self.fold(hour)
        await self.mark_late_arrivals()
        await self.expire_canaries(hour)
        if self._retention is not None:
            await self._retention.expire(hour - ledger.KEPT_HOURS)

    async def fold(self, hour: int) -> None:
        """The ledger keeps single hours for as long as events may still enter them."""
        for mover in await self._reader.movers():
            by_month = self._retention is not None
            if folded := await mover.fold(hour - ledger.KEPT_HOURS, by_month=by_month):
                log.info("old hours of the ledger folded", fields=folded)

    async def mark_late_arrivals(self) -> None:
        """A spool may bring events of a project that was erased long ago: then it is erased again."""
        found: set[str] = set()
        for mover in await self._reader.movers():
            found |= await mover.projects()
        for project_id in found:
            if await self._redis.hget(registry_scripts.project(project_id), "status") == b"DELETED":
                await self._redis.sadd(registry_scripts.DELETED, project_id)

    async def expire_canaries(self, hour: int) -> int:
        """Delete the canaries that nobody counts any more; how many."""
        movers = await self._reader.movers()
        stored = [await mover.stored(canary.PROJECT) for mover in movers]
        hours = [ledger.split_bucket(where)[1] or 0 for counts in stored for where in counts]
        if not hours or min(hours) >= hour - 2 * CANARY_HOURS:
            return 0
        end = hour - CANARY_HOURS
        which: dict[str, Value] = {"project": canary.PROJECT, "end": end * ledger.HOUR_MS}
        old = "project_id = {project:String} AND time_recorded < fromUnixTimestamp64Milli({end:Int64})"
        # A mask, not a mutation that rewrites every part: they are nobody's data, and leave with the merges.
        await self._store.command(f"DELETE FROM events WHERE {old}", which, timeout_seconds=DELETE_SECONDS)  # noqa: S608
        left = await self._store.ask(f"SELECT count() FROM events WHERE {old}", which)  # noqa: S608
        if left.rows != [[0]]:
            return 0
        expired = 0
        for mover, counts in zip(movers, stored, strict=True):
            seen = {
                where: number
                for where, number in counts.items()
                if (ledger.split_bucket(where)[1] or 0) < end
            }
            expired += await mover.move(seen, ledger.EXPIRED)
        log.info("old canaries deleted", events=expired)
        return expired
