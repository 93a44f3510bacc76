"""The number of partitions of a queue: recorded in Redis, the same for whoever works on the queue.

An event's partition is computed from that number, and one owner must see all copies of one `event_id`: two
numbers at once would let copies pass each other by. So the first start records the number, everybody else
compares (here, and with every beat of `app.presence`), and `change` alters it while nobody is at work.

Partitions above the number may still hold entries, since a spool can be replayed long after: whoever goes
through all partitions (drains, freshness, ledger, dead letters, erasure) goes up to `most`.
"""

from __future__ import annotations

import os
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import presence_scripts as scripts
from app.stream import QueueKeys
from app.stream_scripts import with_oom_allowed

CHANGE_SECONDS = 30.0  # for one change; nobody can start meanwhile
WAIT_SECONDS = 0.2


class LayoutError(Exception):
    """This process is configured with another number of partitions; the message says what to do."""


class Layout(msgspec.Struct, frozen=True):
    """`shards` partitions take events, `most` is the largest number there ever was."""

    shards: int
    most: int


class Obstacle(Exception):
    """Why the number cannot be changed now: one sentence."""


class Expected(msgspec.Struct):
    """What this process was configured with, for whoever holds a connection of its own.

    A producer asks with every new connection, before its first append on it: the edge may have been cut off
    while the number was changed. `problem`: what a beat found out since; then nothing is appended any more.
    """

    queue: str
    shards: int
    problem: str = ""

    @property
    def question(self) -> tuple[str, str, str]:
        """The command whose answer `verify` takes."""
        return ("HGET", QueueKeys(self.queue).layout, "shards")

    def verify(self, answer: bytes | None) -> None:
        """Compare with what is recorded; nothing is before the first start. Errors: LayoutError."""
        if answer is not None and int(answer) != self.shards:
            raise LayoutError(mismatch(int(answer), self.shards))


def mismatch(recorded: int, configured: int) -> str:
    """What the person has to hear who configured another number."""
    return (
        f"deploy.toml says shards = {configured}, but Redis holds a queue of {recorded}: set "
        f"queues.producers[0].shards = {recorded}, or stop every edge and drain and run "
        f"`eventbunker shards {configured}`"
    )


async def read(redis: Redis, queue: str) -> Layout | None:
    """What is recorded, None before the first start. Errors: redis_client.UNREACHABLE."""
    shards, most = await redis.hmget(QueueKeys(queue).layout, ["shards", "most"])
    return Layout(int(shards), int(most or shards)) if shards else None


class Change:
    """Alters the number: `async with` keeps everybody from starting, `commit` writes it."""

    def __init__(self, redis: Redis, queue: str, redis_version: tuple[int, int]) -> None:
        self._keys = QueueKeys(queue)
        self._token = os.urandom(8).hex()
        self._close = redis.register_script(with_oom_allowed(scripts.CLOSE, redis_version))
        self._open = redis.register_script(with_oom_allowed(scripts.OPEN, redis_version))

    async def __aenter__(self) -> Change:
        """Errors: Obstacle while somebody is at work."""
        keys = self._keys
        closed = int(
            cast(
                int,
                await self._close(
                    keys=[keys.layout, keys.drains, keys.edges],
                    args=[self._token, int(CHANGE_SECONDS * 1000)],
                ),
            )
        )
        if closed < 0:
            raise Obstacle("somebody else is changing the number of partitions right now")
        if closed == 0:
            raise Obstacle("edges or drains are at work")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open(keys=[self._keys.layout], args=[self._token, 0])

    async def commit(self, shards: int) -> None:
        """Errors: Obstacle when the look at the streams took so long that somebody may have started."""
        if not int(await self._open(keys=[self._keys.layout], args=[self._token, shards])):
            raise Obstacle(f"the change took longer than {CHANGE_SECONDS:.0f} s; try again")
