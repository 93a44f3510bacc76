"""The edge keeps events: requests -> groups -> the stream, or this edge's own spool. Durable when it returns.

Group commit without a timer: while one group is being kept, the requests that arrive form the next; a lone
one goes at once. Each group has an id, (incarnation, partition, sequence), under which it can be sent
any number of times: see APPEND in `app.stream_scripts`.

Redis is given `spool.redis_timeout`; then the group goes to the spool under the same id, whether or not
Redis may have it already. From then on the groups of this partition go to the spool, in order, until
`app.replay` has emptied it of them. `app.track` and `app.batch` submit (and `app.canary`, its own event).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import Protocol

import structlog

from app import ledger, metrics, redis_client, spool_format
from app.errors import ApiError, Kind
from app.pressure import Pressure
from app.producer import Group, NotTaken, Producer, Unanswered
from app.settings import Settings
from app.spool import Spool, SpoolError, SpoolFull
from app.spool_format import Frame
from app.stream import join_group

MAX_GROUP_EVENTS = 1000
MAX_GROUP_BYTES = 1024 * 1024  # bounds an entry of several requests, and with it the drain's smallest bite
ATTEMPT_SECONDS = 4.0  # one round trip, fsync included; a slower Redis is asked again under the same id
RETRY_PAUSE_SECONDS = 0.05

log = structlog.get_logger()


class Waiting(Protocol):
    """Who is told the entry's id, or why there is none: a future, or who answers without one (`app.track`).

    Neither method raises: others wait for the same group.
    """

    def done(self) -> bool: ...
    def set_result(self, entry_id: str, /) -> object: ...
    def set_exception(self, error: Exception, /) -> object: ...


class _Group:
    """Requests that share one append, and who waits for each of them.

    Not one future for all: it would have to be shielded from whoever is cancelled because its client has
    left, which costs more than a future.
    """

    __slots__ = ("bytes", "counts", "end", "events", "requests", "waiting")

    def __init__(self, timeout_seconds: float) -> None:
        self.requests: list[bytes] = []
        self.events = 0
        self.counts: dict[str, int] = {}  # of the ledger: bucket -> events
        self.bytes = 0
        # From now, not from its turn: behind an outage the waits of several groups would add up.
        self.end = time.monotonic() + timeout_seconds
        self.waiting: list[Waiting] = []

    def succeed(self, entry_id: str) -> None:
        """Tell those who still wait that it is kept."""
        metrics.GROUP_RECORDS.observe(self.events)
        for one in self.waiting:
            if not one.done():
                one.set_result(entry_id)

    def fail(self, error: Exception) -> None:
        """Tell those who still wait that it is not."""
        for one in self.waiting:
            if not one.done():
                one.set_exception(error)


class Appender:
    """Keeps the groups of one partition, one at a time, in order."""

    def __init__(
        self,
        producer: Producer,
        partition: int,
        *,
        spool: Spool,
        pressure: Pressure,
        settings: Settings,
    ) -> None:
        self._producer = producer
        self._partition = partition
        self._spool = spool
        self._pressure = pressure
        self._timeout_seconds = settings.limits.append_timeout
        self._redis_seconds = settings.spool.redis_timeout
        self._max_pending_bytes = settings.limits.max_pending_bytes
        # Unique for ever: the producers hash must never know it from another life.
        self._incarnation = os.urandom(12).hex()
        self._sequence = 0
        self._pending: deque[_Group] = deque()
        self._pending_bytes = 0
        self._task: asyncio.Task[None] | None = None

    async def append(self, request: bytes, bucket: str, events: int = 1) -> str:
        """Return when `request` (encoded, with so many events) is kept: in Redis, as durably as it is
        configured, or in the spool.

        `bucket`: where the ledger counts them (`app.ledger.bucket`). Returns the id of the entry, "" where
        that is not known: it is in the spool, or Redis had it from an attempt whose answer was lost.
        Errors: ApiError 503, whose detail says whether the event may have been kept nevertheless.
        """
        kept: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.submit(request, bucket, kept, events)
        return await kept

    def submit(self, request: bytes, bucket: str, waiting: Waiting, events: int = 1) -> None:
        """The same; `waiting` is told what `append` would return or raise, in a later turn of the loop.

        Errors: ApiError 503 where too much waits. Then it is told nothing.
        """
        if self._pending_bytes + len(request) > self._max_pending_bytes:
            raise ApiError(
                Kind.UNAVAILABLE, "Too many events wait to be kept; nothing was kept.", retry_after_seconds=1
            )
        group = self._pending[-1] if self._pending else None
        if (
            group is None
            or group.events + events > MAX_GROUP_EVENTS
            or group.bytes + len(request) > MAX_GROUP_BYTES
        ):
            group = _Group(self._timeout_seconds)
            self._pending.append(group)
        group.requests.append(request)
        group.events += events
        group.counts[bucket] = group.counts.get(bucket, 0) + events
        group.bytes += len(request)
        self._pending_bytes += len(request)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._flush())
        group.waiting.append(waiting)

    async def close(self) -> None:
        """Wait for the groups that are being kept, and disconnect. Bounded."""
        if self._task is not None:
            _, running = await asyncio.wait({self._task}, timeout=self._timeout_seconds)
            if running:
                await redis_client.stop_tasks(self._task)
        while self._pending:
            group = self._pending.popleft()
            group.fail(_refusal("The edge is stopping", may_be_kept=False))
        await self._producer.close()

    async def _flush(self) -> None:
        while self._pending:
            group = self._pending.popleft()
            try:
                entry_id = await self._keep(group)
            except ApiError as error:
                group.fail(error)
            except asyncio.CancelledError:
                group.fail(_refusal("The edge is stopping", may_be_kept=True))
                raise
            except Exception as error:
                log.exception("a group could not be kept")
                group.fail(error)
            else:
                # Not at once: answers are written then, and Redis can have the next group meanwhile.
                asyncio.get_running_loop().call_soon(group.succeed, entry_id)
            finally:
                self._pending_bytes -= group.bytes

    async def _keep(self, group: _Group) -> str:
        """The stream if it may and can be, else the spool, else the stream until time is up."""
        self._sequence += 1
        payload = join_group(group.requests)
        counts = ledger.encode_counts(group.counts).encode()
        size = spool_format.encoded_bytes(len(counts), len(payload))
        has_room = self._spool.reserve(size)  # before it is sent: what may be kept must not be refused
        goes_behind = self._spool.has(self._partition)
        attempt = _Attempt(self._producer, self._incarnation, self._sequence, (group.events, counts, payload))
        refusal = self._pressure.reason or ("Events wait in the spool before this one" if goes_behind else "")
        if not refusal:
            # Without the spool Redis is waited for, unless it is known that neither will have the event soon.
            is_hopeful = not has_room and not self._pressure.refusal()
            end = group.end if is_hopeful else min(group.end, time.monotonic() + self._redis_seconds)
            try:
                is_kept = await attempt.until(end)
            except BaseException:
                if has_room:
                    self._spool.give_back(size)
                raise
            if is_kept:
                if has_room:
                    self._spool.give_back(size)
                return attempt.entry_id
            refusal = attempt.reason
        may_be_kept = attempt.may_be_kept
        if has_room:
            try:
                await self._spool.write(
                    Frame(
                        self._incarnation,
                        self._partition,
                        self._sequence,
                        group.events,
                        time.time_ns() // 1_000_000,
                        counts,
                        payload,
                    )
                )
                return ""
            except SpoolError as error:
                refusal = f"{refusal}, and {error}"
                may_be_kept = may_be_kept or not isinstance(error, SpoolFull)
            # Its disk failed. Nothing of this partition waits there, so the stream is still open to it.
            if not goes_behind and not self._pressure.reason and await attempt.until(group.end):
                return attempt.entry_id
            may_be_kept = may_be_kept or attempt.may_be_kept
        else:
            refusal = f"{refusal}, and {self._spool.problem or 'the spool is full'}"
        raise _refusal(refusal, may_be_kept=may_be_kept)


class _Attempt:
    """One group on its way to the stream. `may_be_kept` once an answer was lost."""

    def __init__(self, producer: Producer, incarnation: str, sequence: int, group: Group) -> None:
        self._producer = producer
        self._id = (incarnation, sequence)
        self._group = group
        self.may_be_kept = False
        self.entry_id = ""
        self.reason = "Redis did not answer in time"

    async def until(self, end: float) -> bool:
        """Send it until Redis has it or the monotonic time `end` has come. True when Redis has it."""
        while (remaining := end - time.monotonic()) > 0:
            try:
                seconds = min(ATTEMPT_SECONDS, remaining)
                self.entry_id = await self._producer.append(*self._id, [self._group], timeout_seconds=seconds)
                return True
            except NotTaken as error:
                self.reason = str(error)
                if error.is_final:
                    return False
            except Unanswered as error:
                self.reason = str(error)
                self.may_be_kept = True
            metrics.APPEND_RETRIES.inc()
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
        return False


def _refusal(reason: str, *, may_be_kept: bool) -> ApiError:
    fate = "It is not known whether the event was kept" if may_be_kept else "Nothing was kept"
    return ApiError(Kind.UNAVAILABLE, f"{reason}. {fate}; send it again.", retry_after_seconds=2)
