"""Drops events that are older than `retention_days`: whole months of the store, and their count as stored.

They are hidden from queries long before (`app.scope`), and the drain stores none (`workers.verdict`); so
nobody sees when a month goes, only the disk does.

The order is what makes it safe to be killed at any line, and to be done by several drains at once:

    1. read what the ledger counts as stored in old months
    2. drop the months, which changes nothing when they are gone already
    3. count: nothing may be left
    4. the numbers of 1 move from stored to expired, each only while it is still the same

Killed after 2, the next run finds no rows and moves. A row that a late plan puts into an old month is found
by the next run, with its count. For 1 the ledger keeps stored events by month (`app.ledger_reader`); those
that were folded without their month, before events were dropped by age, are split by what the store holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import structlog
from redis.asyncio import Redis

from app import dead_letter, ledger
from app.dead_letter import DeadLetter
from app.ledger import EXPIRED, HOUR_MS, encode_counts
from app.ledger_reader import LedgerMover, LedgerReader
from app.retention import DAY_MS, month_begin_ms, oldest_ms
from app.store import Store, Value
from app.stream import Keys
from app.stream_scripts import PURGE
from workers.letters import payloads
from workers.verdict import WINDOW_MS

DROP_SECONDS = 600.0
COUNT_SECONDS = 120.0
_LEFT = "SELECT count() FROM events WHERE time_recorded < fromUnixTimestamp64Milli({end:Int64})"
# `events` and `fates` are partitioned by month, `event_ids` by day.
_PARTITIONS = (
    "SELECT DISTINCT table, partition_id FROM system.parts WHERE active AND database = currentDatabase()"
    " AND (table IN ('events', 'fates') AND partition_id < {month:String}"
    " OR table = 'event_ids' AND partition_id < {day:String}) ORDER BY table, partition_id"
)
_MONTHS = (
    "SELECT formatDateTime(time_recorded, '%Y-%m') AS month, count() FROM events"
    " WHERE project_id = {project:String} AND time_recorded < fromUnixTimestamp64Milli({end:Int64})"
    " GROUP BY month ORDER BY month"
)

log = structlog.get_logger()


class Retention:
    """One for each drain process. Methods raise redis_client.UNREACHABLE and StoreError."""

    def __init__(self, redis: Redis, store: Store, reader: LedgerReader, days: int) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._days = days
        self._purge = redis.register_script(PURGE)

    async def expire(self, kept_from_hour: int) -> int:
        """Drop what is too old; how many events met that fate. The ledger has been folded by month up to
        `kept_from_hour`."""
        oldest = oldest_ms(self._days, await self._now())
        end_ms = month_begin_ms(oldest)
        movers = await self._reader.movers()
        if await self._split(movers, kept_from_hour):
            log.info("the ledger's old hours are counted by month from now on")
        seen = [_until(await mover.all_stored(), end_ms // HOUR_MS) for mover in movers]
        await self._drop(end_ms, oldest)
        left = await self._store.ask(_LEFT, {"end": end_ms}, timeout_seconds=COUNT_SECONDS)
        expired = await self._expire_dead_letters(oldest)
        if left.rows == [[0]]:
            for mover, counts in zip(movers, seen, strict=True):
                expired += await mover.move(counts, EXPIRED)
        if expired:
            log.info("old events dropped", events=expired, recorded_before_ms=end_ms)
        return expired

    async def _now(self) -> int:
        """Unix ms by the earlier of two clocks: one that is wrong must not delete what is young."""
        seconds, microseconds = await self._redis.time()
        return min(time.time_ns() // 1_000_000, int(seconds) * 1000 + int(microseconds) // 1000)

    async def _drop(self, end_ms: int, oldest: int) -> None:
        # An id is asked for as long as copies may come, however soon events are dropped.
        ids_end_ms = min(oldest, await self._now() - WINDOW_MS - DAY_MS)
        names = {"month": _date(end_ms, "%Y%m"), "day": _date(ids_end_ms, "%Y%m%d")}
        found = await self._store.ask(_PARTITIONS, names, timeout_seconds=COUNT_SECONDS)
        for table, partition in found.rows:
            await self._store.command(
                # Servers refuse to drop large partitions unless told that it is meant.
                f"ALTER TABLE {table} DROP PARTITION ID '{partition}'"
                " SETTINGS max_partition_size_to_drop = 0",
                timeout_seconds=DROP_SECONDS,
            )
            log.info("partition dropped by age", table=table, partition=partition)

    async def _split(self, movers: list[LedgerMover], kept_from_hour: int) -> bool:
        """Give stored events that were folded without their month the months that the store tells.

        Where ledger and store disagree, the difference stays as large as it was, for `verify` to tell.
        """
        stored = [await mover.all_stored() for mover in movers]
        projects = {
            ledger.split_bucket(where)[0]
            for counts in stored
            for where in counts
            if ledger.end_of(where) is None
        }
        done = False
        for project_id in sorted(projects):
            rows = await self._months(project_id, kept_from_hour)
            for counts in stored:
                for month in rows:
                    rows[month] -= counts.get(f"{project_id}|{month}", 0)
            for mover, counts in zip(movers, stored, strict=True):
                number = counts.get(ledger.folded(project_id), 0)
                share = _share(rows, number)
                months = {f"{project_id}|{month}": part for month, part in share.items()}
                if months and await mover.split(project_id, number, months):
                    done = True
                    rows = {month: left - share.get(month, 0) for month, left in rows.items()}
        return done

    async def _months(self, project_id: str, kept_from_hour: int) -> dict[str, int]:
        """Month -> rows of the hours that may be folded."""
        which: dict[str, Value] = {"project": project_id, "end": kept_from_hour * HOUR_MS}
        result = await self._store.ask(_MONTHS, which, timeout_seconds=COUNT_SECONDS)
        return {str(month): int(str(count)) for month, count in result.rows}

    async def _expire_dead_letters(self, oldest: int) -> int:
        expired = 0
        for _, keys in await self._reader.partitions():
            async for entry_id, payload in payloads(self._redis, keys):
                expired += await self._expire_letter(keys, entry_id, payload, oldest)
        return expired

    async def _expire_letter(self, keys: Keys, entry_id: str, payload: bytes, oldest: int) -> int:
        try:
            letter = dead_letter.decode(payload)
        except msgspec.DecodeError:  # no drain of ours wrote it
            return 0
        if not _is_old(letter, oldest):
            return 0
        counts = dead_letter.counts(letter)
        identity = letter.record.unique_req_id.hex() if letter.record is not None else ""
        done = await self._purge(
            keys=[keys.dead, keys.dead_ids, keys.ledger, keys.hours],
            args=[entry_id, identity, encode_counts(counts), EXPIRED],
        )
        return sum(counts.values()) if done else 0


def _is_old(letter: DeadLetter, oldest: int) -> bool:
    """Are all events of this letter too old?"""
    if letter.record is not None:
        return letter.record.time_recorded < oldest
    ends = [ledger.end_of(where) for where in dead_letter.counts(letter)]
    return bool(ends) and all(end is not None and end * HOUR_MS <= oldest for end in ends)


def _until(stored: Mapping[str, int], end_hour: int) -> dict[str, int]:
    """Of the buckets that end at `end_hour` or before."""
    ends = {where: ledger.end_of(where) for where in stored}
    return {where: stored[where] for where, end in ends.items() if end is not None and end <= end_hour}


def _share(rows: Mapping[str, int], stored: int) -> dict[str, int]:
    """`stored` events, or fewer, in months with rows that nobody else accounts for; the oldest first."""
    found: dict[str, int] = {}
    for month, number in sorted(rows.items()):
        if (part := min(number, stored)) > 0:
            found[month] = part
            stored -= part
    return found


def _date(moment_ms: int, form: str) -> str:
    return time.strftime(form, time.gmtime(moment_ms // 1000))
