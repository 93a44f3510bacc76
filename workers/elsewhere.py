"""What lies in this Redis where this service does not look: under another queue's name, or a former one's.

Several services may share a Redis, each with a queue of its own name, and then all is as it should be. But
when a queue got another name in deploy.toml, events that were answered with 200 lie under the former one, and
nobody stores them. So each drain says, soon after its start and every hour, what lies where nobody works;
`verify` says it too. Erasures look there in any case (`app.ledger_reader`, `workers.erase_proof`).
"""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis

from app import ledger, presence, queues
from app.presence import Member
from app.presence_scripts import REMEMBER_MS
from app.queues import Place
from app.settings import Settings
from workers.chores import repeat

FIRST_SECONDS = 10.0  # the drains of another service may start in the same minute
EVERY_SECONDS = 3600.0

log = structlog.get_logger()


async def warn(redis: Redis, settings: Settings, stop: asyncio.Event) -> None:
    """Log it until `stop`."""

    async def look() -> None:
        for line in await describe(redis, settings):
            log.warning("something lies where no drain works", what=line)

    try:
        async with asyncio.timeout(FIRST_SECONDS):
            await stop.wait()
    except TimeoutError:
        await repeat(stop, "looking at other queues", look, EVERY_SECONDS)


async def describe(redis: Redis, settings: Settings) -> list[str]:
    """A sentence on each queue, and each name of dead letters, with what to do. Errors: UNREACHABLE."""
    own, found = settings.producer.queue, await queues.find(redis)
    lines = []
    for queue in sorted(found.names):
        places = [one for one in found.places if one.queue == queue]
        if queue == own:
            lines += await _former_letters(redis, settings, places)
        elif not await _is_served(redis, queue):
            lines += await _left(redis, queue, places)
    return lines


async def counted(redis: Redis, settings: Settings) -> list[str]:
    """Which other queues have counted events as stored: in this store their rows are foreign to `verify`."""
    lines = []
    found = await queues.find(redis)
    for queue in sorted(found.names - {settings.producer.queue}):
        ledgers = [one.keys[0].ledger for one in found.places if one.queue == queue]
        stored = sum([int(await redis.hget(name, ledger.STORED) or 0) for name in ledgers])
        if stored:
            what = _count(stored, "stored event")
            lines.append(f'queue "{queue}" has counted {what}, whose rows are foreign here')
    return lines


async def edges(redis: Redis, queue: str) -> list[Member]:
    """Edges of all other queues that have a spool. Errors: UNREACHABLE."""
    names = sorted((await queues.find(redis)).names - {queue})
    return [one for name in names for one in await _edges(redis, name)]


async def _edges(redis: Redis, queue: str) -> list[Member]:
    """But for those whose disks are taken to be gone: of a queue without beats nobody strikes them off."""
    members = await presence.listed(redis, queue, "edge")
    return [one for one in members if one.has_spool and one.dead_ms < REMEMBER_MS]


async def _is_served(redis: Redis, queue: str) -> bool:
    return any(not one.dead_ms for one in await presence.listed(redis, queue, "drain"))


async def _former_letters(redis: Redis, settings: Settings, places: list[Place]) -> list[str]:
    """Of this queue: where a version that recorded no name has left them."""
    configured = settings.consumer.dead_letter_queue
    letters = {name: number for name, number in (await _letters(redis, places)).items() if name != configured}
    return [
        f'{_count(number, "dead letter")} of this queue under the name "{name}", where nobody looks: '
        f'start with queues.consumers[0].dead_letter_queue = "{name}", and replay or purge them '
        "(`eventbunker dead`)"
        for name, number in letters.items()
    ]


async def _left(redis: Redis, queue: str, places: list[Place]) -> list[str]:
    """Of a queue at which no drain is at work."""
    entries = sum([await redis.xlen(one.keys[0].entries) for one in places])
    members = await _edges(redis, queue)
    spooled = sum(one.spooled for one in members)
    untold = sum(bool(one.dead_ms and not one.spooled) for one in members)
    letters = await _letters(redis, places)
    what = [
        *([f"{_count(entries, 'group')} of events"] if entries else []),
        *([f"{_count(spooled, 'group')} of events in spools of its edges"] if spooled else []),
        *(
            [f"perhaps events in spools of {_count(untold, 'edge')} that ended without a word"]
            if untold
            else []
        ),
        *(f'{_count(number, "dead letter")} under the name "{name}"' for name, number in letters.items()),
    ]
    if not what:
        return []
    advice = f'start its edges and a drain, with queue = "{queue}" for both, until all is stored'
    if letters:
        advice += ", and replay or purge its dead letters (`eventbunker dead`)"
    return [f'queue "{queue}" holds {", ".join(what)}, and no drain works on it: {advice}']


async def _letters(redis: Redis, places: list[Place]) -> dict[str, int]:
    """Name -> dead letters in all partitions."""
    found: dict[str, int] = {}
    for place in places:
        for name, keys in zip(place.dead_letter_queues, place.keys, strict=False):
            if number := await redis.xlen(keys.dead):
                found[name] = found.get(name, 0) + number
    return found


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
