"""One connection on which groups are appended to one partition of the stream, each under its id.

It says what is certain after an attempt, and leaves to its callers (`app.append`, `app.replay`) what follows:

    NotTaken      Redis refused, or was not reached: this attempt has kept nothing
    Unanswered    the groups were sent and no answer came: they may be kept. Repeating them is safe
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

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

from app.layout import Expected, LayoutError
from app.redis_client import UNREACHABLE
from app.stream import Keys
from app.stream_scripts import APPEND

# The client cuts the code off where it has a class for it; in a script of Redis 6 the code is in the text.
PASSING_ERRORS = (ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)
PASSING_CODES = ("LOADING", "MISCONF", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")

LARGE_BYTES = 32 * 1024  # sent as it is, instead of in one piece with its neighbours

log = structlog.get_logger()


class NotTaken(Exception):
    """Nothing was kept by this attempt. `is_final`: another one at once would not fare better."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Unanswered(Exception):
    """It is not known whether the groups were kept."""


# A group as APPEND takes it: number of records, counts for the ledger, payload.
Group = tuple[int, bytes, bytes]


class Producer:
    """Not for two callers at once. A pool would add work to every append."""

    def __init__(
        self, pool: ConnectionPool, keys: Keys, expected: Expected, *, is_import: bool = False
    ) -> None:
        """`expected` is compared with each new connection: a queue of another layout gets nothing."""
        self._pool = pool
        self._keys = keys
        memory = (keys.producers, keys.producers_order)
        if is_import:
            memory = (keys.imports, keys.imports_order)
        names = (keys.entries, *memory, keys.ledger, keys.hours)
        self._named = (b"5", *(name.encode() for name in names))
        self._expected = expected
        self._connection: AbstractConnection | None = None
        self._sha = b""

    async def append(
        self, incarnation: str, first_sequence: int, groups: Sequence[Group], *, timeout_seconds: float
    ) -> str:
        """Append groups of consecutive sequences; those that Redis knows already are passed over.

        Returns the entry id of the last one, "" when all were known. Errors: NotTaken, Unanswered.
        """
        was_sent = False
        if self._expected.problem:
            raise NotTaken(self._expected.problem, is_final=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                connection = await self._connect()
                was_sent = True
                entry_id = await self._send(connection, incarnation, first_sequence, groups)
                return entry_id.decode()
        except ResponseError as error:
            if _is_out_of_memory(error):
                raise NotTaken("Redis is out of memory", is_final=True) from None
            await self.close()
            if _is_passing(error):
                raise NotTaken("Redis cannot write now") from None
            # Nothing that waiting mends, such as a missing permission: somebody must.
            log.error("redis refuses an append", entries=self._keys.entries, error=str(error)[:200])
            raise NotTaken("Redis refuses to append", is_final=True) from None
        except LayoutError as error:
            raise NotTaken(str(error), is_final=True) from None
        except UNREACHABLE as error:
            await self.close()
            if was_sent:
                raise Unanswered("Redis did not answer in time") from error
            raise NotTaken("Redis did not answer in time") from error
        except BaseException:
            await self.close()  # an answer under way would be taken for that of the next append
            raise

    async def close(self) -> None:
        """Disconnect; the next append connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*UNREACHABLE):
                await connection.disconnect(nowait=True)

    async def _connect(self) -> AbstractConnection:
        if self._connection is None:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SCRIPT", "LOAD", APPEND)
                self._sha = await connection.read_response()
                await connection.send_command(*self._expected.question)
                self._expected.verify(await connection.read_response())
                # Ours holds for all of an append; to keep its own, redis-py made a task for each command.
                connection.socket_timeout = None
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection
        return self._connection

    async def _send(
        self, connection: AbstractConnection, incarnation: str, first_sequence: int, groups: Sequence[Group]
    ) -> bytes:
        arguments = [incarnation.encode(), b"%d" % first_sequence]
        for number, counts, payload in groups:
            arguments += (b"%d" % number, counts, payload)
        await connection.send_packed_command(_pack(b"EVALSHA", self._sha, *self._named, *arguments))
        try:
            answer: bytes = await connection.read_response()
        except NoScriptError:  # somebody flushed the scripts
            await connection.send_packed_command(_pack(b"EVAL", APPEND.encode(), *self._named, *arguments))
            answer = await connection.read_response()
        return answer


def _pack(*parts: bytes) -> list[bytes]:
    """A command as it goes to Redis. redis-py takes three times as long, since it must accept anything.

    What is large is not copied: the payload of batches is up to a megabyte.
    """
    packed: list[bytes] = []
    pending = [b"*%d\r\n" % len(parts)]
    for part in parts:
        if len(part) < LARGE_BYTES:
            pending.append(b"$%d\r\n%b\r\n" % (len(part), part))
        else:
            pending.append(b"$%d\r\n" % len(part))
            packed += (b"".join(pending), part)
            pending = [b"\r\n"]
    packed.append(b"".join(pending))
    return packed


def _is_out_of_memory(error: ResponseError) -> bool:
    # Before 7.0 an error inside a script is a sentence of the script's that quotes it.
    return isinstance(error, OutOfMemoryError) or "-OOM " in str(error)


def _is_passing(error: ResponseError) -> bool:
    """Is this answer one that another try may not get: a failing disk, a replica, a long script?"""
    if isinstance(error, PASSING_ERRORS):
        return True
    return any(f"-{code} " in f"-{error} " for code in PASSING_CODES)
