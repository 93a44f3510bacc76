"""Proves that nothing of an erasure is left, and only then calls it done.

After its rows are gone from the store (`workers.erase_round`), in this order:

    spools        every edge, those of other queues in this Redis too, has said, late enough, that it holds no
                  events that were recorded before the erasure: they went to the stream
    stream        what was there then is acknowledged
    dead letters  given up where they are meant; tokens of charts that name a customer are revoked
    store         counted once more: no row, no fate that names a customer; its copy of the tombstone is gone
    files         none of the store's directory holds former versions of the rows
    redis         its file is written anew, so that it does not remember the events either

What is not so yet stands in the report, and is looked at again. Whatever this process only remembers (marks,
moments) is found out once more after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import presence, tombstone
from app.erasure_report import Counted, Open, Report, decode_report, encode_open, encode_report
from app.presence import Member
from app.scope import Erased
from app.store import Store
from app.tombstone import KEPT_DAYS, Tombstone
from workers import elsewhere
from workers import erase_sql as sql
from workers.erase_charts import Charts
from workers.erase_letters import Letters
from workers.marks import Mark, Marks
from workers.redis_file import rewrite

# Each event once, where it was met last: a dead letter may have been replayed while it was given up. What was
# left of an event's fate in the store is no place where it was, and may be met after the event.
_COUNTED = (
    "SELECT splitByChar(' ', last)[1], splitByChar(' ', last)[2], count() FROM"
    " (SELECT argMax(detail, settled_at) AS last FROM fates WHERE project_id IN {projects:Array(String)}"
    " AND fate = 'erased' AND splitByChar(' ', detail)[1] IN {ids:Array(String)}"
    " AND splitByChar(' ', detail)[2] IN {places:Array(String)} GROUP BY unique_req_id)"
    " GROUP BY 1, 2"
)
_COPIES = "SELECT count() FROM erasures WHERE erasure_id IN {ids:Array(String)}"
_FORGET_COPIES = (
    "ALTER TABLE erasures DELETE WHERE erasure_id IN {ids:Array(String)} SETTINGS mutations_sync = 2"
)
_FILES = (
    "SELECT (SELECT count() FROM system.parts WHERE database = currentDatabase() AND NOT active"
    " AND table IN {tables:Array(String)} AND remove_time <= fromUnixTimestamp({before:Int64}))"
    " + (SELECT count() FROM system.detached_parts WHERE database = currentDatabase()"
    " AND table IN {tables:Array(String)})"
)

# Former parts go when the engine next looks for them, which may be in minutes where nobody writes. It looks
# when a partition is dropped, also one that there cannot be.
_LOOK_FOR_FORMER = "ALTER TABLE {} DROP PARTITION ID 'none'"

ERASURES_A_LOOK = (
    1000  # their ids travel in an address; more may be ready when an edge returns that was away for days
)
Ones = Mapping[str, tuple[Tombstone, Erased]]
log = structlog.get_logger()


class Proof:
    """For the one eraser at work. Methods raise redis_client.UNREACHABLE, StoreError and plan.Halted.

    `margin_ms`: how long after an erasure an edge may still append or spool what it had recorded before.
    """

    def __init__(
        self, redis: Redis, store: Store, letters: Letters, marks: Marks, queue: str, *, margin_ms: int
    ) -> None:
        self._redis = redis
        self._store = store
        self._letters = letters
        self._charts = Charts(redis)
        self._marks = marks
        self._queue = queue
        self._margin_ms = margin_ms
        self._taken: dict[str, Mark] = {}
        self._settled: dict[str, int] = {}  # since when, Unix seconds, nothing but files is left
        self._advance = redis.register_script(scripts.ADVANCE)
        self._reopen = redis.register_script(scripts.REOPEN)
        self._mark_clean = redis.register_script(scripts.MARK_CLEAN)

    async def mark_clean(self, erasures: Mapping[str, Open]) -> None:
        """The store holds no row of these any more."""
        now_ms = time.time_ns() // 1_000_000
        counted = await self._counted(erasures)
        for erasure_id, one in erasures.items():
            clean = Open(one.project_id, one.up_to_ms, "clean", now_ms)
            report = await self._report(erasure_id)
            report.rows_gone_at, report.remaining.store = now_ms, 0
            _add(report.counted, counted.get(erasure_id, Counted()))
            keys = [scripts.hidden(one.project_id), scripts.CLEAN, scripts.OPEN, scripts.report(erasure_id)]
            await self._mark_clean(keys=keys, args=[erasure_id, encode_open(clean), encode_report(report)])

    async def prove(self, erasures: Mapping[str, Open]) -> None:
        """One look at those whose rows are gone."""
        clean = {id_: one for id_, one in erasures.items() if one.stage == "clean"}
        if clean:
            await self._prove(clean)
        closing = [(id_, one) for id_, one in erasures.items() if one.stage == "closing"]
        if closing:
            await self._close(dict(closing[:ERASURES_A_LOOK]))

    async def _prove(self, clean: Mapping[str, Open]) -> None:
        now_ms = time.time_ns() // 1_000_000
        due = [one for one, how in clean.items() if how.up_to_ms + self._margin_ms < now_ms]
        if not due:
            return
        edges = await presence.listed(self._redis, self._queue, "edge")
        if any(one not in self._taken for one in due):  # once: it looks at every key of Redis
            edges += await elsewhere.edges(self._redis, self._queue)
        due = [one for one in due if not await self._spooled(one, clean[one], edges)]
        if new := [one for one in due if one not in self._taken]:
            # Only now: what the spools held is in the stream.
            self._taken |= dict.fromkeys(new, await self._marks.take_everywhere())
        ready = []
        for erasure_id, left in (await self._marks.each_left({one: self._taken[one] for one in due})).items():
            await self._tell([erasure_id], stream=left)
            if not left and erasure_id not in self._settled:
                ready.append(erasure_id)
        if ready:
            await self._count(await self._tombstones(ready[:ERASURES_A_LOOK]), clean)
        await self._look_at_files([one for one in due if one in self._settled], clean)

    async def _spooled(self, erasure_id: str, one: Open, edges: Sequence[Member]) -> int:
        """Groups that edges hold, as far as they have told; one for an edge that may have spooled some since:
        one that is gone, or whose next beat will tell."""
        since_ms = one.up_to_ms + self._margin_ms
        spooled = sum(edge.spooled or int(edge.told_ms <= since_ms) for edge in edges)
        await self._tell([erasure_id], spools=spooled)
        return spooled

    async def _count(self, ones: Ones, clean: Mapping[str, Open]) -> None:
        _, doubtful = await self._letters.purge([one for one, _ in ones.values()])
        if not await self._letters.forget():
            return
        left: dict[str, int] = {}
        for choice in sql.choices(ones.values()):
            tables = ("events", "fates") if choice.is_of_customers else ("events",)
            number = 0
            for table in tables:
                which = {"project": choice.project_id}
                found = await self._store.ask(choice.count(table), which, timeout_seconds=sql.SECONDS)
                number += int(str(found.rows[0][0]))
            left |= dict.fromkeys(choice.ids, number)
        if (await self._store.ask(_COPIES, {"ids": [*ones]})).rows != [[0]]:
            await self._store.command(_FORGET_COPIES, {"ids": [*ones]}, timeout_seconds=sql.SECONDS)
        await self._tell_charts(await self._charts.revoke(one for one, _ in ones.values()))
        for erasure_id in ones:
            await self._tell(
                [erasure_id], dead_letters=0, store=left[erasure_id], unreadable=doubtful.get(erasure_id, 0)
            )
            if left[erasure_id]:
                log.error("rows of an erasure are back", erasure=erasure_id, rows=left[erasure_id])
                await self._begin_again(erasure_id, clean[erasure_id])
            elif erasure_id not in doubtful:
                self._settled[erasure_id] = int(time.time()) + 1

    async def _look_at_files(self, ids: Sequence[str], clean: Mapping[str, Open]) -> None:
        for table in sql.TABLES if ids else ():
            await self._store.command(_LOOK_FOR_FORMER.format(table), timeout_seconds=sql.SECONDS)
        for before in sorted({self._settled[one] for one in ids}):
            which: dict[str, Any] = {"before": before, "tables": [*sql.TABLES]}
            files = int(str((await self._store.ask(_FILES, which)).rows[0][0]))
            some = [one for one in ids if self._settled[one] == before]
            await self._tell(some, files=files)
            for erasure_id in some if not files else ():
                report = await self._report(erasure_id)
                report.verified_at = time.time_ns() // 1_000_000
                one = msgspec.structs.replace(clean[erasure_id], stage="closing", since_ms=report.verified_at)
                await self._set(erasure_id, encode_open(one), report)

    async def _close(self, closing: Mapping[str, Open]) -> None:
        """From here on Redis holds nothing by name; what its file remembers goes with a new one."""
        how = await rewrite(self._redis)
        counted = await self._counted(closing)
        for erasure_id in closing:
            report = await self._report(erasure_id)
            _add(report.counted, counted.get(erasure_id, Counted()))
            report.redis_file, report.state = how, "done"
            report.done_at = time.time_ns() // 1_000_000
            await self._set(erasure_id, b"", report)
            log.info("erasure done", erasure=erasure_id, **msgspec.structs.asdict(report.counted))
            self._taken.pop(erasure_id, None)
            self._settled.pop(erasure_id, None)
        await self._charts.forget([*closing])

    async def _counted(self, erasures: Mapping[str, Open]) -> dict[str, Counted]:
        """What the store remembers, for 30 days, of what each has met."""
        found: dict[str, Counted] = {}
        which = {
            "projects": sorted({one.project_id for one in erasures.values()}),
            "ids": [*erasures],
            "places": [*Counted.__struct_fields__],
        }
        for erasure_id, place, number in (await self._store.ask(_COUNTED, which)).rows if erasures else ():
            setattr(found.setdefault(str(erasure_id), Counted()), str(place), int(str(number)))
        return found

    async def _begin_again(self, erasure_id: str, one: Open) -> None:
        self._taken.pop(erasure_id, None)
        self._settled.pop(erasure_id, None)
        keys = [scripts.CLEAN, scripts.hidden(one.project_id), scripts.OPEN]
        await self._reopen(keys=keys, args=[erasure_id, encode_open(Open(one.project_id, one.up_to_ms))])

    async def _tombstones(self, ids: Sequence[str]) -> dict[str, tuple[Tombstone, Erased]]:
        payloads = await self._redis.hmget(scripts.CLEAN, list(ids))
        return {
            one: (tombstone.decode(payload), tombstone.to_erased(payload))
            for one, payload in zip(ids, payloads, strict=True)
            if payload is not None
        }

    async def _report(self, erasure_id: str) -> Report:
        payload = await self._redis.get(scripts.report(erasure_id))
        if payload is None:  # somebody has cut it out of Redis; the work goes on
            return Report(erasure_id=erasure_id, project_id="", asked_at=0, up_to=0)
        return decode_report(payload)

    async def _set(self, erasure_id: str, open_: bytes, report: Report) -> None:
        keys = [scripts.CLEAN, scripts.OPEN, scripts.report(erasure_id)]
        seconds = KEPT_DAYS * 86_400
        await self._advance(keys=keys, args=[erasure_id, open_, encode_report(report), seconds])

    async def _tell_charts(self, revoked: Mapping[str, int]) -> None:
        for erasure_id, number in revoked.items():
            report = await self._report(erasure_id)
            report.charts = number
            await self._redis.set(scripts.report(erasure_id), encode_report(report))

    async def _tell(self, ids: Sequence[str], **remaining: int) -> None:
        for erasure_id in ids:
            report = await self._report(erasure_id)
            before = encode_report(report)
            for name, number in remaining.items():
                setattr(report.remaining, name, number)
            if (after := encode_report(report)) != before:
                await self._redis.set(scripts.report(erasure_id), after)


def _add(told: Counted, found: Counted) -> None:
    """What was told stays told: of a deleted project the ledger has counted the rows, and what the store
    remembers ends."""
    told.store = max(told.store, found.store)
    if found.stream + found.dead_letters >= told.stream + told.dead_letters:  # one may become the other
        told.stream, told.dead_letters = found.stream, found.dead_letters
