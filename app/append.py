"""The edge's end of the stream: records -> groups -> one append each, durable when it returns.

Group commit without a timer: while one append is in flight, the records that arrive form the next group;
a lone record goes at once. Each append carries (incarnation, sequence), so repeating it after a lost
reply cannot store it twice: see APPEND in `app.stream_scripts`. `app.track` submits; nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from app import ledger, metrics, redis_client
from app.errors import ApiError, Kind
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.stream import Keys, join_group
from app.stream_scripts import APPEND

MAX_GROUP_RECORDS = 1000
MAX_GROUP_BYTES = 1024 * 1024  # bounds one entry, and with it the drain's smallest bite
ATTEMPT_SECONDS = 4.0  # one round trip, fsync included; a slower Redis is asked again under the same id
RETRY_PAUSE_SECONDS = 0.05
# The client cuts the code off where it has a class for it; in a script of Redis 6 the code is in the text.
PASSING_ERRORS = (ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)
PASSING_CODES = ("LOADING", "MISCONF", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")

log = structlog.get_logger()


class _Group:
    """Records that share one append, and the future that tells all of their requests."""

    __slots__ = ("bytes", "counts", "done", "end", "records")

    def __init__(self, timeout_seconds: float) -> None:
        self.records: list[bytes] = []
        self.counts: dict[str, int] = {}  # of the ledger: bucket -> records
        self.bytes = 0
        # From now, not from its turn: behind an outage the waits of several groups would add up.
        self.end = time.monotonic() + timeout_seconds
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A failure is told to those who wait; a group whose clients all left must not warn.
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())


class Appender:
    """Appends to one partition, one group at a time, in order."""

    def __init__(self, pool: ConnectionPool, keys: Keys, settings: Settings) -> None:
        self._pool = pool
        self._keys = keys
        self._timeout_seconds = settings.limits.append_timeout
        self._max_pending_bytes = settings.limits.max_pending_bytes
        # Unique for ever: the producers hash must never know it from another life.
        self._incarnation = os.urandom(12).hex()
        self._sequence = 0
        self._pending: deque[_Group] = deque()
        self._pending_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._sha = b""

    async def append(self, record: bytes, bucket: str) -> None:
        """Return when `record` (encoded) is in Redis as durably as Redis is configured to be.

        `bucket`: where the ledger counts it (`app.ledger.bucket`).
        Errors: ApiError 503, whose detail says whether the event may have been kept nevertheless.
        """
        if self._pending_bytes + len(record) > self._max_pending_bytes:
            raise ApiError(
                Kind.UNAVAILABLE, "Too many events wait for Redis; nothing was kept.", retry_after_seconds=1
            )
        group = self._pending[-1] if self._pending else None
        if group is None or len(group.records) >= MAX_GROUP_RECORDS or group.bytes > MAX_GROUP_BYTES:
            group = _Group(self._timeout_seconds)
            self._pending.append(group)
        group.records.append(record)
        group.counts[bucket] = group.counts.get(bucket, 0) + 1
        group.bytes += len(record)
        self._pending_bytes += len(record)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._flush())
        # Shielded: a client that goes away must not cancel what its neighbours wait for.
        await asyncio.shield(group.done)

    async def close(self) -> None:
        """Wait for the appends in flight, forget this incarnation in Redis, and disconnect. Bounded."""
        if self._task is not None:
            _, running = await asyncio.wait({self._task}, timeout=self._timeout_seconds)
            if running:
                await redis_client.stop_tasks(self._task)
        while self._pending:
            group = self._pending.popleft()
            group.done.set_exception(_refusal(may_be_kept=False, reason="The edge is stopping"))
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*UNREACHABLE):
                async with asyncio.timeout(1):  # otherwise the hash keeps one field for each clean stop
                    await connection.send_command("HDEL", self._keys.producers, self._incarnation)
                    await connection.read_response()
            await connection.disconnect(nowait=True)

    async def _flush(self) -> None:
        while self._pending:
            group = self._pending.popleft()
            try:
                await self._append_group(group)
            except ApiError as error:
                group.done.set_exception(error)
            except asyncio.CancelledError:
                group.done.set_exception(_refusal(may_be_kept=True, reason="The edge is stopping"))
                raise
            except Exception as error:
                log.exception("append failed unexpectedly")
                group.done.set_exception(error)
            else:
                group.done.set_result(None)
                metrics.GROUP_RECORDS.observe(len(group.records))
            finally:
                self._pending_bytes -= group.bytes

    async def _append_group(self, group: _Group) -> None:
        """One group, repeated under its own sequence number until Redis has answered or time is up."""
        self._sequence += 1
        payload = join_group(group.records)
        may_be_kept = False
        while (remaining := group.end - time.monotonic()) > 0:
            was_sent = False
            try:
                async with asyncio.timeout(min(ATTEMPT_SECONDS, remaining)):
                    connection = await self._connect()
                    was_sent = True
                    await self._send(connection, group, payload)
                return
            except ResponseError as error:
                if _is_out_of_memory(error):  # an earlier attempt may still be on its way
                    raise _refusal(may_be_kept=may_be_kept, reason="Redis is out of memory") from None
                if not _is_passing(error):
                    raise
            except UNREACHABLE:
                may_be_kept = may_be_kept or was_sent
            metrics.APPEND_RETRIES.inc()
            await self._disconnect()
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
        raise _refusal(may_be_kept=may_be_kept, reason="Redis did not answer in time")

    async def _connect(self) -> AbstractConnection:
        """The partition's own connection, with the script loaded. A pool would add work to every append."""
        if self._connection is None:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SCRIPT", "LOAD", APPEND)
                self._sha = await connection.read_response()
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection
        return self._connection

    async def _send(self, connection: AbstractConnection, group: _Group, payload: bytes) -> None:
        keys = self._keys
        arguments = (
            *(5, keys.entries, keys.producers, keys.producers_order, keys.ledger, keys.hours),
            *(self._incarnation, self._sequence),
            *(len(group.records), ledger.encode_counts(group.counts), payload),
        )
        await connection.send_command("EVALSHA", self._sha, *arguments)
        try:
            await connection.read_response()
        except NoScriptError:  # somebody flushed the scripts
            await connection.send_command("EVAL", APPEND, *arguments)
            await connection.read_response()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*UNREACHABLE):
                await connection.disconnect(nowait=True)


def _is_out_of_memory(error: ResponseError) -> bool:
    # Before 7.0 an error inside a script is a sentence of the script's that quotes it.
    return isinstance(error, OutOfMemoryError) or "-OOM " in str(error)


def _is_passing(error: ResponseError) -> bool:
    """Is this answer one that another try may not get: a failing disk, a replica, a long script?"""
    if isinstance(error, PASSING_ERRORS):
        return True
    return any(f"-{code} " in f"-{error} " for code in PASSING_CODES)


def _refusal(*, may_be_kept: bool, reason: str) -> ApiError:
    fate = "It is not known whether the event was kept" if may_be_kept else "Nothing was kept"
    return ApiError(Kind.UNAVAILABLE, f"{reason}. {fate}; send it again.", retry_after_seconds=2)
