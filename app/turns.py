"""A bound on costly work: so many at once, so many that wait for their turn, and not for longer than that.

Whoever works belongs to groups, from the largest to the smallest (a project, one of its keys). Each group has
a share of the places that it cannot exceed, and a place that becomes free goes to the group that has the
fewest, of several to the one that was given one longest ago: a project that sends a hundred heavy queries
waits for itself. Some places are kept for groups that have none: two projects that ask as much as they may
would have them all, and a third's first small question would wait until one of theirs ends. Knows nothing of
queries or keys. Of one process and one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from app.errors import ApiError, Kind

Groups = tuple[str, ...]  # from the largest to the smallest; a group is named by the path to it


class _Waiter:
    """`place` is done when a place was given, or has the error of who is sent away."""

    def __init__(self, paths: list[Groups]) -> None:
        self.paths = paths
        self.place: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Turns:
    """`what`: the work, in the plural, for the sentence that a client is told.

    `shares`: how many places a group of each level may have at once. `kept`: of all places, and of the share
    of a group of each level, so many that only those within who have none may take.
    """

    def __init__(
        self,
        at_once: int,
        waiting: int,
        timeout_seconds: float,
        what: str,
        shares: Sequence[int] = (),
        *,
        kept: Sequence[int] = (),
    ) -> None:
        self._max_waiting = waiting
        self._timeout_seconds = timeout_seconds
        self._what = what
        self._bounds = (at_once, *shares)
        self._kept = (*kept, *[0] * len(self._bounds))
        self._working: Counter[Groups] = Counter()  # by path; all together by the empty one
        self._waiting: list[_Waiter] = []  # the longest first
        self._given = 0
        self._last_given: dict[Groups, int] = {}  # of each largest group that works or waits, once it had one

    @asynccontextmanager
    async def turn(self, *groups: str) -> AsyncIterator[None]:
        """One of the places, while the context lasts. Errors: ApiError 503 when there is none in time."""
        leave = await self.take(*groups)
        try:
            yield
        finally:
            leave()

    async def take(self, *groups: str) -> Callable[[], None]:
        """One of the places; it is given back by the function that is returned. Errors: as for `turn`."""
        paths = [groups[:length] for length in range(len(groups) + 1)]
        if self._may_have(paths):
            self._give(paths)
        else:
            await self._wait(_Waiter(paths))
        return partial(self._leave, paths)

    async def _wait(self, waiter: _Waiter) -> None:
        self._waiting.append(waiter)
        if len(self._waiting) > self._max_waiting:
            self._send_one_away()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await waiter.place
        except BaseException as error:  # the client's leaving too
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.place.done() and not waiter.place.cancelled() and not waiter.place.exception():
                self._leave(waiter.paths)  # it was given in this very moment
            if isinstance(error, TimeoutError):
                raise self._busy() from None
            raise

    def _send_one_away(self) -> None:
        """The last to come of the group with the most that wait: nobody fills the queue for others."""
        crowds = Counter(_largest(waiter.paths) for waiter in self._waiting)
        last = max(range(len(self._waiting)), key=lambda at: (crowds[_largest(self._waiting[at].paths)], at))
        place = self._waiting.pop(last).place
        if not place.done():  # it may have been cancelled a moment ago
            place.set_exception(self._busy())

    def _may_have(self, paths: list[Groups]) -> bool:
        """Is there one within each group, beyond what is kept for others than who has one in it already?"""
        levels = zip(paths, self._bounds, self._kept, [*paths[1:], None], strict=False)
        return all(
            self._working[path] + (kept if within and self._working[within] else 0) < bound
            for path, bound, kept, within in levels
        )

    def _leave(self, paths: list[Groups]) -> None:
        self._working.subtract(paths)
        for path in paths:
            if not self._working[path]:
                del self._working[path]
        present = {_largest(waiter.paths) for waiter in self._waiting}.union(self._working)
        self._last_given = {group: n for group, n in self._last_given.items() if group in present}
        while allowed := [waiter for waiter in self._waiting if self._may_have(waiter.paths)]:
            # The first of those with the least: `min` keeps the order in which they came.
            chosen = min(allowed, key=self._claim)
            self._waiting.remove(chosen)
            if not chosen.place.done():  # it may have been cancelled a moment ago
                self._give(chosen.paths)
                chosen.place.set_result(None)

    def _give(self, paths: list[Groups]) -> None:
        self._working.update(paths)
        self._given += 1
        self._last_given[_largest(paths)] = self._given

    def _claim(self, waiter: _Waiter) -> tuple[list[int], int]:
        """The smaller, the sooner: what its groups have, and when the largest of them was last given one."""
        return [self._working[path] for path in waiter.paths], self._last_given.get(_largest(waiter.paths), 0)

    def _busy(self) -> ApiError:
        return ApiError(Kind.UNAVAILABLE, f"Too many {self._what}; try again.", retry_after_seconds=1)


def _largest(paths: list[Groups]) -> Groups:
    """Of the groups that somebody belongs to, but for all together."""
    return paths[min(1, len(paths) - 1)]
