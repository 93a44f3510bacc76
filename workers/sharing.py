"""Which partitions this process drains: its fair share, divided anew whenever drains come and go.

Every drain process looks a few times a second: who is alive (`app.presence`), and whose each partition is
(the leases). Shares follow from that alone, so nobody has to lead: with `n` alive, the first `partitions % n`
to have joined hold one more than the others. Whoever joined later gets the smaller share; so a newcomer
moves as few partitions as can be.

Free partitions are taken at once. Surplus ones are given back only when they were surplus in two looks
running, after the batch in hand: whoever starts and dies at once moves nothing. That two drains differ about
who is alive does no harm: the leases decide who owns, the shares only who asks.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import structlog
from redis.asyncio import Redis

from app import redis_client
from app.layout import LayoutError
from app.partition import Standing, survey
from app.presence import Presence, Replaced, View
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.stream import Keys
from workers.drain import PartitionDrain

MAX_LIFE_SECONDS = 4.0  # a drain that has not been heard of for so long has no share
LOOKS_A_LIFE = 8
SURPLUS_LOOKS = 2

log = structlog.get_logger()


def life_seconds(settings: Settings) -> float:
    """How long a beat counts: less than a lease, so that shares have grown when a dead drain's leases end."""
    return min(0.8 * settings.consumer.lease_timeout, MAX_LIFE_SECONDS)


def fair_share(partitions: int, members: int, place: int) -> tuple[int, int]:
    """The share of the member in `place` (from 0): where it begins, and how many partitions it has."""
    size, larger = divmod(partitions, members)
    return place * size + min(place, larger), size + (place < larger)


def choose(due: Sequence[int], mine: set[int], free: set[int], share: tuple[int, int]) -> set[int]:
    """The partitions to hold: of one's own first, then of the free ones, no more than the share has.

    Everybody begins at the beginning of its own share, so that drains which start together ask for
    different partitions.
    """
    begin, size = share
    turned = [*due[begin:], *due[:begin]]
    ordered = [one for one in turned if one in mine] + [one for one in turned if one in free]
    return set(ordered[:size])


class Sharing:
    """Runs the drains of those partitions that are this process's."""

    def __init__(
        self,
        redis: Redis,
        presence: Presence,
        partitions: Sequence[Keys],
        drains: Sequence[PartitionDrain],
        settings: Settings,
    ) -> None:
        self._redis = redis
        self._presence = presence
        self._partitions = partitions
        self._drains = drains
        self._shards = settings.producer.shards
        self._slot = presence.id
        self._look_seconds = life_seconds(settings) / LOOKS_A_LIFE
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._surplus_looks = 0
        self._may_inherit = True
        self._has_others = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: then others take over, or every stream is emptied where there are no others.

        Errors: LayoutError, when all is given back; and whatever is a bug.
        """
        try:
            await self._share(stop)
            await self._end(hands_over=self._has_others)
        except LayoutError:
            await self._end(hands_over=True)
            raise
        finally:
            if self._tasks:
                await redis_client.stop_tasks(*self._tasks.values())

    async def _share(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                await self._look()
                failures = 0
            except UNREACHABLE as error:
                failures += 1
                if failures & (failures - 1) == 0:
                    log.warning("partitions cannot be shared now", error=type(error).__name__)
            try:
                async with asyncio.timeout(self._look_seconds):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _end(self, *, hands_over: bool) -> None:
        """Be gone for the others at once, and wait until every partition is given back."""
        if hands_over:
            for drain in self._drains:
                drain.give_back()
        try:
            await self._presence.leave()
        except UNREACHABLE as error:
            log.warning("the others learn late that this drain stops", error=type(error).__name__)
        await asyncio.gather(*self._tasks.values())

    async def _look(self) -> None:
        try:
            view = await self._presence.beat()
        except Replaced:
            self._presence.take_another_id(f"{self._slot}-{uuid.uuid4().hex[:8]}")
            self._may_inherit = False
            log.warning(
                "another drain runs in this one's slot: give each its own DRAIN_SLOT", slot=self._slot
            )
            return
        if view is not None:
            self._has_others = len(view.members) > 1
            self._hold(self._wanted(view, await survey(self._redis, self._partitions)))

    def _wanted(self, view: View, standings: Sequence[Standing]) -> set[int]:
        """The partitions that this process should drain now."""
        owners = dict(enumerate(standing.owner for standing in standings))
        # Beyond the present number there is something to do only when a late replay has put it there.
        due = [n for n, standing in enumerate(standings) if n < self._shards or not standing.is_empty]
        mine = {n for n in due if owners[n] == self._drains[n].owner}
        inherited = {n for n in due if n not in mine and self._is_inherited(owners[n])}
        self._may_inherit = self._may_inherit and bool(inherited)
        mine |= inherited
        begin, size = fair_share(len(due), len(view.members), view.members.index(self._presence.id))
        self._surplus_looks = self._surplus_looks + 1 if len(mine) > size else 0
        if self._surplus_looks and self._surplus_looks < SURPLUS_LOOKS:
            size = len(mine)
        return choose(due, mine, {n for n in due if not owners[n]}, (begin, size))

    def _is_inherited(self, owner: str) -> bool:
        """Does the former life of this slot own it? Then its lease need not be waited for."""
        return self._may_inherit and owner.rpartition("/")[0] == self._slot

    def _hold(self, wanted: set[int]) -> None:
        for number in range(len(self._drains)):
            task = self._tasks.get(number)
            if task is not None and task.done():
                del self._tasks[number]
                task.result()
                task = None
            if number in wanted and task is None:
                self._tasks[number] = asyncio.create_task(self._drains[number].run())
            elif number not in wanted and task is not None:
                self._drains[number].give_back()
