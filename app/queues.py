"""What this Redis holds of queues, whatever their names: found by their keys, for whoever must miss nothing.

Accounts, projects and erasures belong to all queues of a Redis. There are several where services share it,
and where a queue got another name in deploy.toml while something lay under the former one.
"""

from __future__ import annotations

import re
from collections import defaultdict

import msgspec
from redis.asyncio import Redis

from app.settings import NAME
from app.stream import Keys, own_names

KEYS_A_LOOK = 1000  # all keys are looked at, so many at a time: Redis answers others in between
_WORD = NAME.strip("^$")
_PARTITION_KEY = re.compile(rf"eb:\{{({_WORD}):(\d{{1,3}})\}}:({_WORD})")
_QUEUE_KEY = re.compile(rf"eb:\{{({_WORD})\}}:layout")


class Place(msgspec.Struct, frozen=True):
    """A partition. `dead_letter_queues`: the names under which dead letters lie there."""

    queue: str
    partition: int
    dead_letter_queues: tuple[str, ...]

    @property
    def keys(self) -> list[Keys]:
        """One for each of the names, one where there are no dead letters."""
        return [Keys(self.queue, self.partition, name) for name in self.dead_letter_queues or ("",)]


class Found(msgspec.Struct, frozen=True):
    """`names` of all queues at which anybody ever worked, and their partitions."""

    names: set[str]
    places: list[Place]


async def find(redis: Redis) -> Found:
    """Everything. Errors: redis_client.UNREACHABLE."""
    names: set[str] = set()
    dead: dict[tuple[str, int], set[str]] = defaultdict(set)
    taken = own_names()
    async for raw in redis.scan_iter(match="eb:{*", count=KEYS_A_LOOK):
        key = raw.decode(errors="replace")
        if match := _QUEUE_KEY.fullmatch(key):
            names.add(match[1])
        elif match := _PARTITION_KEY.fullmatch(key):
            queue, partition, name = match[1], int(match[2]), match[3]
            names.add(queue)
            found = dead[queue, partition]
            if name not in taken and await redis.type(key) == b"stream":
                found.add(name)
    places = [Place(*where, tuple(sorted(found))) for where, found in sorted(dead.items())]
    return Found(names, places)
