"""A bound on costly work: so many at once, so many that wait for their turn, and not for longer than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import ApiError, Kind


class Turns:
    """`what`: the work, in the plural, for the sentence that a client is told. Of one process."""

    def __init__(self, at_once: int, waiting: int, timeout_seconds: float, what: str) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._max_waiting = waiting
        self._timeout_seconds = timeout_seconds
        self._what = what
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the places, while the context lasts. Errors: ApiError 503 when none is free in time."""
        busy = ApiError(Kind.UNAVAILABLE, f"Too many {self._what}; try again.", retry_after_seconds=1)
        if self._waiting >= self._max_waiting:
            raise busy
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise busy from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()
