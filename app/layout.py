"""What all who work on a queue must agree on, recorded in Redis: the number of partitions, and one name.

An event's partition is computed from that number, and one owner must see all copies of one `event_id`: two
numbers at once would let copies pass each other by. So the first start records the number, everybody else
compares (here, and with every beat of `app.presence`), and `change` alters it while nobody is at work.

The name is that under which dead letters lie. Whoever knows another one would neither show nor erase them. So
it changes only while there are none and nobody is at work, by the first to start with another one.

Partitions above the number may still hold entries, since a spool can be replayed long after: whoever goes
through all partitions (drains, freshness, ledger, dead letters, erasure) goes up to `most`.
"""

from __future__ import annotations

import os
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import presence_scripts as scripts
from app import queues
from app.stream import QueueKeys
from app.stream_scripts import with_oom_allowed

CHANGE_SECONDS = 30.0  # for one change; nobody can start meanwhile
WAIT_SECONDS = 0.2


class LayoutError(Exception):
    """This process is configured otherwise than the queue is; the message says what to do."""


class Layout(msgspec.Struct, frozen=True):
    """`shards` partitions take events, `most` is the largest number there ever was. `dead_letter_queue` is ""
    while only versions have worked there that did not record it."""

    shards: int
    most: int
    dead_letter_queue: str = ""


class Obstacle(Exception):
    """Why nothing can be changed now: one sentence."""


class AtWork(Obstacle):
    """Edges or drains are at work."""


class Expected(msgspec.Struct):
    """What this process was configured with, for whoever holds a connection of its own.

    A producer asks with every new connection, before its first append on it: the edge may have been cut off
    while the number was changed. `problem`: what a beat found out since; then nothing is appended any more.
    `dead_letter_queue` is "" of whoever has nothing to do with dead letters.
    """

    queue: str
    shards: int
    problem: str = ""
    dead_letter_queue: str = ""

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


def other_name(recorded: str, configured: str, why: str) -> str:
    """What the person has to hear who configured another dead letter queue."""
    return (
        f'deploy.toml says dead_letter_queue = "{configured}", but {why}: set '
        f'queues.consumers[0].dead_letter_queue = "{recorded}"'
    )


async def read(redis: Redis, queue: str) -> Layout | None:
    """What is recorded, None before the first start. Errors: redis_client.UNREACHABLE."""
    names = ["shards", "most", "dead"]
    shards, most, dead = cast("list[bytes | None]", await redis.hmget(QueueKeys(queue).layout, names))
    return Layout(int(shards), int(most or shards), (dead or b"").decode()) if shards else None


async def rename(redis: Redis, expected: Expected, former: str, redis_version: tuple[int, int]) -> None:
    """Record the dead letter queue of `expected` in the place of `former`, "" where none is recorded yet.

    Nothing happens while somebody else changes the layout: the next beat tells. Errors: LayoutError, when
    letters lie under another name, or somebody is at work under `former`; redis_client.UNREACHABLE.
    """
    if not former:
        await _leave_none(redis, expected)
        name = redis.register_script(with_oom_allowed(scripts.NAME, redis_version))
        await name(keys=[QueueKeys(expected.queue).layout], args=[expected.dead_letter_queue])
        return
    try:
        async with Change(redis, expected.queue, redis_version) as change:
            await _leave_none(redis, expected)  # whoever could set one aside cannot start from here on
            await change.commit(0, expected.dead_letter_queue)
    except AtWork as error:
        why = f'{error} under the name "{former}"'
        told = other_name(former, expected.dead_letter_queue, why)
        raise LayoutError(f"{told}, or stop every edge and drain first") from error
    except Obstacle:
        return


async def _leave_none(redis: Redis, expected: Expected) -> None:
    """Errors: LayoutError while dead letters of the queue lie under another name."""
    for place in (await queues.find(redis)).places:
        for name, keys in zip(place.dead_letter_queues, place.keys, strict=False):
            if place.queue != expected.queue or name == expected.dead_letter_queue:
                continue
            if letters := await redis.xlen(keys.dead):
                what = "1 dead letter" if letters == 1 else f"{letters} dead letters"
                why = f'partition {place.partition} holds {what} under the name "{name}"'
                told = other_name(name, expected.dead_letter_queue, why)
                raise LayoutError(
                    f"{told}, and with that name replay or purge all of them (`eventbunker dead`) before you "
                    "change it"
                )


class Change:
    """Alters what is recorded: `async with` keeps everybody from starting, `commit` writes it."""

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
            raise AtWork("edges or drains are at work")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open(keys=[self._keys.layout], args=[self._token, 0, ""])

    async def commit(self, shards: int, dead_letter_queue: str = "") -> None:
        """0 and "" leave what is recorded. Errors: Obstacle when the look at the streams took so long that
        somebody may have started."""
        if not int(await self._open(keys=[self._keys.layout], args=[self._token, shards, dead_letter_queue])):
            raise Obstacle(f"the change took longer than {CHANGE_SECONDS:.0f} s; try again")
