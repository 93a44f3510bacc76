"""One reader of the stream for all tails of an edge, while somebody listens and a minute longer.

Each partition is followed by a task. An entry is looked into only if it holds events of a project that
somebody listens to, and then once for all who do. What that may cost is bounded: beyond SHARE of the
processor's time events are passed over, and their listeners are told how many. The last entries are
remembered, so that a client that was cut off goes on where it was.

What is erased is not shown, also where it was read before and is remembered, or was recorded long ago: every
tombstone that is kept is applied, and each read learns of new ones. Nor is what `retention_days` hides.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog
from redis.asyncio import Redis

from app import redis_client
from app.budget import Budget
from app.enrich import Geography, read_client
from app.redis_client import UNREACHABLE
from app.retention import oldest_ms
from app.shown import as_shown
from app.stream import Keys, Record
from app.tail_follower import READ_BYTES, READ_COUNT, Entry, Follower
from app.tail_frames import Positions, event_line
from app.tail_listener import BUSY, MISSED, Listener
from app.tail_memory import Followed
from app.tombstones import Tombstones

SHARE = 0.25  # of one processor, for looking into events
BURST_SECONDS = 0.25
STEP_RECORDS = 50  # looked into before others have a turn: about a millisecond
LINGER_SECONDS = 60.0
MAX_REMEMBERED_BYTES = 8 * 1024 * 1024  # of entries, of all partitions
BEHIND_SECONDS = 3.0  # reading without reaching the end; then the newest entries are more use than all
RETRY_SECONDS = 0.2
PATIENCE_SECONDS = 30.0  # with a client that takes what it missed; who takes nothing is cut off then
PAUSE_SECONDS = 0.02
LEARN_SECONDS = 0.1  # while many events are shown: an erasure is answered later than that after it is written

log = structlog.get_logger()


class TailReader:
    """One for each edge process. `open_geography` is called before the first event is looked into."""

    def __init__(
        self,
        redis: Redis,
        queue: str,
        shards: int,
        open_geography: Callable[[], Geography],
        *,
        retention_days: int = 0,
    ) -> None:
        self._redis = redis
        self._retention_days = retention_days
        self._open_geography = open_geography
        self._geography: Geography | None = None
        self._tombstones = Tombstones(redis, Geography(""))
        self._learned_at = 0.0  # monotonic seconds
        each = MAX_REMEMBERED_BYTES // shards
        self._partitions = [Followed(n, Follower(redis, Keys(queue, n)), each) for n in range(shards)]
        self._listeners: dict[str, list[Listener]] = {}
        self._budget = Budget(SHARE, BURST_SECONDS)
        self._past_budget = Budget(SHARE, BURST_SECONDS)  # its own: whoever catches up takes nobody's present
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        self._turn = asyncio.Lock()  # to show an entry, or to begin to listen
        self._present: set[Listener] = set()  # whoever listens or catches up
        self._left_at = 0.0

    async def listen(self, listener: Listener, after: Positions | None) -> None:
        """From the return on it is shown what comes; with `after` from `catch_up` on, and what came since.
        Until `leave`, which ends it also where this fails.

        Errors: redis_client.UNREACHABLE, tombstones.Unreadable.
        """
        async with self._starting:
            self._present.add(listener)
            if self._geography is None:
                self._geography = await asyncio.to_thread(self._load)
                self._tombstones = Tombstones(self._redis, self._geography)
                self._learned_at = 0.0
            await self._learn(time.monotonic())  # there may be many: not while the first event waits
            if not self._tasks or any(task.done() for task in self._tasks):
                await self.close()
                for one in self._partitions:
                    await one.begin()
                self._tasks = [asyncio.create_task(self._follow(one)) for one in self._partitions]
        if after is not None:
            listener.positions = {one.number: after.get(one.number, (0, 0)) for one in self._partitions}
            return
        async with self._turn:
            self._join(listener)

    async def catch_up(self, listener: Listener) -> None:
        """Show it what is remembered and it was not shown, as fast as it takes that, and then what comes.

        Errors: tombstones.Unreadable.
        """
        while not self._has_joined(listener):
            try:
                await self._look_back(listener, PATIENCE_SECONDS)
                async with self._turn:  # no entry is being shown: none comes twice, and none is left out
                    await self._look_back(listener)  # the few that came meanwhile
                    for one in self._partitions:  # which may have had a gap after they were looked back at
                        listener.skip_to(one.number, one.since)
                    self._join(listener)
            except UNREACHABLE:  # what is erased cannot be known now; it goes on where it was
                await asyncio.sleep(RETRY_SECONDS)

    def positions(self, listener: Listener) -> Positions:
        """Up to where it has been shown everything, once it has taken what is queued for it."""
        return self._now() if self._has_joined(listener) else listener.positions

    def _has_joined(self, listener: Listener) -> bool:
        return listener in self._listeners.get(listener.project_id, ())

    def _now(self) -> Positions:
        return {one.number: one.follower.position for one in self._partitions}

    def _join(self, listener: Listener) -> None:
        listener.positions = self._now()
        self._listeners.setdefault(listener.project_id, []).append(listener)

    def _load(self) -> Geography:
        """In a thread: the first look at a User-Agent makes a table, which takes as long as 10,000 events."""
        read_client("Mozilla/5.0 (X11; Linux x86_64)")
        return self._open_geography()

    def leave(self, listener: Listener) -> None:
        """It is gone, or could not begin."""
        self._present.discard(listener)
        some = self._listeners.get(listener.project_id, [])
        if listener in some:
            some.remove(listener)
        if not some:
            self._listeners.pop(listener.project_id, None)
        self._left_at = time.monotonic()

    async def close(self) -> None:
        """Stop reading."""
        if self._tasks:
            await redis_client.stop_tasks(*self._tasks)

    async def _look_back(self, listener: Listener, patience_seconds: float = 0.0) -> None:
        """Until there is no more, waiting for who takes it up to `patience_seconds` each time."""
        await self._learn(time.monotonic())
        for one in self._partitions:
            while True:
                listener.skip_to(one.number, one.since)
                entries = one.behind(listener.positions[one.number])
                if not entries:
                    break
                await asyncio.sleep(0)
                for entry in entries:
                    if listener.project_id not in entry.projects():
                        listener.show([], {one.number: entry.id})
                        continue
                    await self._look_into(entry, {one.number: entry.id}, [listener], patience_seconds)

    async def _follow(self, partition: Followed) -> None:
        """While somebody listens; whatever fails is tried again."""
        failures = 0
        while self._present or time.monotonic() - self._left_at < LINGER_SECONDS:
            try:
                if partition.begins_anew:
                    await self._begin_anew(partition, MISSED)
                entries, is_gap = await partition.follower.read()
                await self._deliver(partition, entries, is_gap=is_gap)
                if not entries:
                    await partition.follower.wait()
                failures = 0
            except UNREACHABLE as error:
                if not failures:
                    log.warning("tail_cannot_read", partition=partition.number, error=type(error).__name__)
                failures += 1
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                # Without this task nobody would see anything: pass over what it stumbled on.
                log.error("tail_failed", partition=partition.number, error=type(error).__name__)
                partition.begins_anew = True
                await asyncio.sleep(RETRY_SECONDS)
        partition.forget()

    async def _begin_anew(self, partition: Followed, reason: str) -> None:
        await partition.begin()
        self._tell_all(reason)  # in the same step: somebody may have begun to listen while it was asked for

    async def _deliver(self, partition: Followed, entries: list[Entry], *, is_gap: bool) -> None:
        follower, now = partition.follower, time.monotonic()
        is_full = sum(len(entry.payload) for entry in entries) > READ_BYTES // 2 or len(entries) == READ_COUNT
        partition.behind_since = (partition.behind_since or now) if is_full else 0.0
        if is_gap and entries:
            partition.forget(entries[0].id)
            self._tell_all(MISSED)
        elif is_gap:
            await self._begin_anew(partition, MISSED)
        if partition.behind_since and now - partition.behind_since > BEHIND_SECONDS:
            entries, partition.behind_since = [], 0.0
            await self._begin_anew(partition, BUSY)
        for entry in entries:
            async with self._turn:
                projects = entry.projects()
                if projects & self._listeners.keys():
                    await self._learn(now)
                concerned = [one for project in projects for one in self._listeners.get(project, ())]
                if concerned:
                    await self._look_into(entry, {**self._now(), partition.number: entry.id}, concerned)
                partition.remember(entry)
                follower.advance(entry.id)

    async def _look_into(
        self, entry: Entry, after: Positions, listeners: Sequence[Listener], patience_seconds: float = 0.0
    ) -> None:
        """Show it to those of `listeners` who want something of it, who are at `after` then. With patience
        nothing is left out.
        """
        lines: dict[Listener, list[bytes]] = {one: [] for one in listeners}
        of_project: dict[str, list[Listener]] = {}
        for one in listeners:
            of_project.setdefault(one.project_id, []).append(one)
        missed: Counter[str] = Counter()
        budget = self._past_budget if patience_seconds else self._budget
        began = time.thread_time()
        for number, record in enumerate(entry.records()):
            if number % STEP_RECORDS == 0:
                for one, some_lines in lines.items():
                    one.show_some(some_lines[:-1])  # the last one tells that all of the entry was shown
                    del some_lines[:-1]
                budget.spend(time.thread_time() - began)
                await asyncio.sleep(0)
                if patience_seconds:
                    await self._wait(listeners, patience_seconds)
                await self._learn(0.0)
                began = time.thread_time()
            some = of_project.get(record.project_id)
            if some is None:
                continue
            if budget.is_spent and not patience_seconds:
                missed[record.project_id] += 1
            else:
                self._show(record, some, lines)
        budget.spend(time.thread_time() - began)
        for one in listeners:
            if missed[one.project_id]:
                one.miss(missed[one.project_id], BUSY)  # before the id that says it has been shown all of it
            one.show(lines[one], after)

    async def _wait(self, listeners: Sequence[Listener], seconds: float) -> None:
        """Until they have taken what they were shown, and the processor may be used for more."""
        for one in listeners:
            await one.taken(seconds)
        while self._past_budget.is_spent:  # noqa: ASYNC110  (time alone fills it)
            await asyncio.sleep(PAUSE_SECONDS)

    def _show(
        self, record: Record, listeners: Iterable[Listener], lines: dict[Listener, list[bytes]]
    ) -> None:
        is_expired = record.time_recorded < oldest_ms(self._retention_days, time.time_ns() // 1_000_000)
        if is_expired or self._tombstones.erasure_of(record):
            return
        try:
            found = as_shown(record, self._geography or Geography(""))
        except (msgspec.DecodeError, ValueError):  # the drain sets it aside
            return
        line: bytes | None = None
        for one in listeners:
            if one.wants(found):
                line = line or event_line(found, record.body)
                lines[one].append(line)

    async def _learn(self, before: float) -> None:
        """Of every tombstone that was written before that moment, or a tenth of a second before this one."""
        now = time.monotonic()
        if self._learned_at < max(before, now - LEARN_SECONDS):
            await self._tombstones.refresh()
            self._learned_at = now

    def _tell_all(self, reason: str) -> None:
        for some in self._listeners.values():
            for one in some:
                one.miss(None, reason)
