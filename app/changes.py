"""Follows the registry's changes stream: the push that cannot be missed. `app.registry` forgets what it says.

A subscription loses what is published while the connection is down. A stream does not: the follower goes
on from the last entry it has read. Entries are numbered, so that a trimmed or replaced stream shows: on
any doubt everything is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from app.redis_client import UNREACHABLE
from app.registry_scripts import CHANGES

BLOCK_MS = 100
# One round of reads; a connection that hangs longer is replaced. Not sooner: a Redis whose disk takes 0.3 s
# for an fsync needs that for each of several steps, and who hangs up before never reads of a revocation.
READ_SECONDS = 2.0
RETRY_SECONDS = 0.1
READ_COUNT = 1000

log = structlog.get_logger()


class Position(msgspec.Struct, frozen=True):
    """The last entry read: its id, as numbers, and which change it was, counted from the first."""

    milliseconds: int
    sequence: int
    number: int

    @property
    def entry_id(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"

    def is_after(self, other: Position) -> bool:
        return (self.milliseconds, self.sequence) > (other.milliseconds, other.sequence)


START = Position(0, 0, 0)


class Follower:
    """Calls `apply(what, id)` for each change and `forget_all()` when changes may have been missed.

    `current_at`: monotonic seconds of the last moment for which every change is known to be applied. It
    is when the read was sent, not when its answer came: an answer may have been long on its way.
    """

    def __init__(
        self, redis: Redis, apply: Callable[[str, str], None], forget_all: Callable[[], None]
    ) -> None:
        self._redis = redis
        self._apply = apply
        self._forget_all = forget_all
        self._position: Position | None = None
        self._is_stopped = False
        self.current_at = float("-inf")

    def stop(self) -> None:
        """End `follow` after its current read at the latest.

        Cancelling is not enough: before Python 3.12 asyncio.wait_for, through which redis-py sends, loses
        a cancellation that arrives as the sending ends, and the loop would go on for ever.
        """
        self._is_stopped = True

    async def follow(self) -> None:
        """Until stopped or cancelled; whatever fails is tried again."""
        while not self._is_stopped:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await self._read()
            except UNREACHABLE:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                # Without the follower every key costs a Redis call, for ever: start over instead.
                log.error("registry changes cannot be read", error=type(error).__name__)
                self._position = None
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        asked = time.monotonic()
        if self._position is None:
            position = await self._newest()
            # Only now: what was learnt before this position may have changed before it.
            self._forget_all()
            self._position = position
        answer = await self._redis.xread({CHANGES: self._position.entry_id}, READ_COUNT, BLOCK_MS)
        entries = [
            (_position(entry_id, change), change)
            for _, some in cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", answer or [])
            for entry_id, change in some
        ]
        for position, change in entries:
            if position.number != self._position.number + 1:
                self._forget_all()
            self._apply(change[b"what"].decode(), change[b"id"].decode())
            self._position = position
        if not entries and self._position.is_after(await self._newest()):
            self._position = None  # the stream is not the one that was read: begin anew
        elif len(entries) < READ_COUNT:
            self.current_at = asked

    async def _newest(self) -> Position:
        answer = await self._redis.xrevrange(CHANGES, count=1)
        newest = cast("list[tuple[bytes, dict[bytes, bytes]]]", answer)
        return _position(*newest[0]) if newest else START


def _position(entry_id: bytes, change: dict[bytes, bytes]) -> Position:
    milliseconds, _, sequence = entry_id.decode().partition("-")
    return Position(int(milliseconds), int(sequence), int(change.get(b"n", 0)))
