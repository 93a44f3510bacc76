"""`eventbunker shards [N]`: shows the partitions and who works on them, and changes their number.

The number may change only while it can be seen that nothing is under way: all copies of one `event_id` must
meet in one partition, and the number decides in which. So whatever may still hold events of the old layout
is named, one sentence each, and has to go first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

from redis.asyncio import Redis

from app import layout, presence, redis_client
from app.layout import Change, Expected, Layout, LayoutError, Obstacle
from app.partition import Freshness, Standing, survey
from app.presence import EDGE_LIFE_SECONDS, Member
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.stream import Keys, Role
from workers import output
from workers.running import NotRunning, find_running
from workers.supervisor import StartFailed

Work: TypeAlias = Callable[[Redis, Settings], Awaitable[int]]

ROLES: tuple[Role, ...] = ("edge", "drain")
LISTED = 5  # of a kind; more of the same help nobody


def show(settings: Settings) -> int:
    """Print the number and every partition. Returns the exit code, like every function here."""
    return _run(settings, _show)


def change(settings: Settings, shards: int, *, forget_spools: bool) -> int:
    """Change the number, or say what is in the way."""

    async def work(redis: Redis, settings: Settings) -> int:
        if forget_spools:
            await presence.forget_dead(redis, settings.producer.queue, "edge")
        obstacles = await try_change(redis, settings, shards)
        if not obstacles:
            output.done(
                f"the queue has {_count(shards, 'partition')} now\n"
                f"set queues.producers[0].shards = {shards} for every edge and drain, and start them"
            )
            return 0
        output.say("nothing was changed; in the way:")
        for obstacle in obstacles:
            output.say(f"  {obstacle}")
        return 1

    return _run(settings, work)


def _run(settings: Settings, work: Work) -> int:
    async def run() -> int:
        found = find_running(settings, needs_store=False)
        redis = redis_client.connect(found)
        try:
            return await work(redis, found)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except NotRunning as error:
        output.say(str(error))
    except UNREACHABLE as error:
        output.say(f"Redis does not answer ({type(error).__name__}); check REDIS_URL")
    return 1


async def try_change(redis: Redis, settings: Settings, shards: int) -> list[str]:
    """Make it `shards` partitions; what is in the way, [] when it is done. Errors: UNREACHABLE."""
    queue = settings.producer.queue
    version = await redis_client.wait_for_version(redis, asyncio.Event())
    if at_work := await _at_work(redis, queue):
        return at_work
    try:
        async with Change(redis, queue, version) as opening:
            # Nobody can start from here on; who had, and was not seen, is seen by Change.
            found = await layout.read(redis, queue) or Layout(shards, shards)
            left = [*await _left(redis, settings, found), *await _spooled(redis, queue)]
            if not left:
                await opening.commit(shards)
            return left
    except Obstacle as error:
        return [str(error)]


async def adapt(settings: Settings) -> None:
    """Give the embedded queue of `dev` the number of deploy.toml: while it is down nobody else can.

    So with the name of its dead letters. Errors: StartFailed; UNREACHABLE.
    """
    producer = settings.producer
    redis = redis_client.connect(settings)
    try:
        found = await layout.read(redis, producer.queue)
        if found is None:
            return
        end = time.monotonic() + EDGE_LIFE_SECONDS + 1  # those of a former life that was killed
        await _rename(redis, settings, found.dead_letter_queue, end)
        if found.shards == producer.shards:
            return
        while obstacles := await try_change(redis, settings, producer.shards):
            if time.monotonic() > end or not await _at_work(redis, producer.queue):
                raise StartFailed(
                    f"deploy.toml says shards = {producer.shards}, but the queue has {found.shards}: start "
                    f"once more with {found.shards}. In the way of the change: {'; '.join(obstacles)}"
                )
            await asyncio.sleep(0.2)
    finally:
        await redis.aclose()


async def _rename(redis: Redis, settings: Settings, former: str, end: float) -> None:
    """Errors: StartFailed, when letters would be left behind."""
    producer, name = settings.producer, settings.consumer.dead_letter_queue
    if name == former:
        return
    version = await redis_client.wait_for_version(redis, asyncio.Event())
    while True:
        try:
            return await layout.rename(
                redis, Expected(producer.queue, producer.shards, dead_letter_queue=name), former, version
            )
        except LayoutError as error:
            if time.monotonic() > end or not await _at_work(redis, producer.queue):
                raise StartFailed(str(error)) from error
        await asyncio.sleep(0.2)


async def _at_work(redis: Redis, queue: str) -> list[str]:
    lines = []
    for role in ROLES:
        alive = [one for one in await presence.listed(redis, queue, role) if not one.dead_ms]
        lines += [f"{role} {one.id} is at work: stop it" for one in alive[:LISTED]]
        if len(alive) > LISTED:
            lines.append(f"and {len(alive) - LISTED} more {role}s")
    return lines


async def _left(redis: Redis, settings: Settings, found: Layout) -> list[str]:
    """What the partitions still hold, of the old layout and of older ones."""
    partitions = _partitions(settings, found.most, found.dead_letter_queue)
    lines = []
    for number, keys in enumerate(partitions):
        entries, dead = await redis.xlen(keys.entries), await redis.xlen(keys.dead)
        if entries or await redis.exists(keys.plan):
            lines.append(
                f"partition {number} holds {_count(entries, 'group')} of events: "
                f"start a drain with shards = {found.shards} and wait until it is empty"
            )
        if dead:
            lines.append(
                f"partition {number} holds {_count(dead, 'dead letter')}, which would not find their way "
                "back: replay or purge them (`eventbunker dead`)"
            )
    return lines


async def _spooled(redis: Redis, queue: str) -> list[str]:
    """Spools that were left behind; who is alive is in the way by itself."""
    return [
        f"{_count(one.spooled, 'group')} of events in the spool at {one.place}, last seen "
        f"{one.dead_ms // 1000} s ago: start an edge there until they are replayed, or, if that disk will "
        "never come back, add --forget-spools"
        for one in await presence.listed(redis, queue, "edge")
        if one.dead_ms and one.spooled
    ]


class _Row(NamedTuple):
    partition: str
    entries: str
    lag: str
    epoch: str
    owner: str


async def _show(redis: Redis, settings: Settings) -> int:
    queue = settings.producer.queue
    found = await layout.read(redis, queue)
    if found is None:
        output.line(f"no edge or drain has ever worked on the queue {queue!r}")
        return 0
    output.line(f"{_count(found.shards, 'partition')}; deploy.toml says {settings.producer.shards}")
    freshness = Freshness(redis, queue, found.shards)
    freshness.watch(found.most)
    partitions = _partitions(settings, found.most)
    standings = await survey(redis, partitions)
    rows = [_Row("PARTITION", "ENTRIES", "OLDEST", "EPOCH", "OWNER")]
    for lag, keys, standing in zip(await freshness.lag(), partitions, standings, strict=True):
        if lag.is_retired and standing.is_empty:
            continue
        epoch = str(int(await redis.get(keys.epoch) or 0))
        name = f"{lag.partition} (former)" if lag.is_retired else str(lag.partition)
        rows.append(_Row(name, str(lag.entries), f"{lag.oldest_ms} ms", epoch, _owner(standing, lag.halted)))
    for row in rows:
        output.line(f"{row.partition:<11} {row.entries:>8} {row.lag:>12} {row.epoch:>6}  {row.owner}")
    for role in ROLES:
        for one in await presence.listed(redis, queue, role):
            output.line(f"{role} {one.id} {_member(one)}")
    return 0


def _owner(standing: Standing, halted: str) -> str:
    owner = standing.owner.rpartition("/")[0] or "nobody"
    return f"{owner}, halted: {halted}" if halted else owner


def _member(one: Member) -> str:
    state = f"gone for {one.dead_ms // 1000} s" if one.dead_ms else "at work"
    if one.dead_ms and not one.spooled:
        return f"{state}, and has not told whether its spool at {one.place} is empty"
    return f"{state}, {_count(one.spooled, 'group')} in its spool at {one.place}" if one.spooled else state


def _partitions(settings: Settings, most: int, recorded: str = "") -> list[Keys]:
    dead_letter_queue = recorded or settings.consumer.dead_letter_queue
    return [Keys(settings.producer.queue, number, dead_letter_queue) for number in range(most)]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
