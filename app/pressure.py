"""Back-pressure: says when events must not go to Redis, so that what is there can still be drained.

Two high-water marks, looked at once a second and never per request: the entries of a partition, and
Redis's memory. Beyond 80 % of `maxmemory` the rest belongs to the drain, whose plan and acknowledgement
need room; a full Redis that cannot be drained would stay full for ever.
"""

from __future__ import annotations

import asyncio

import structlog

from app.partition import Freshness
from app.redis_client import UNREACHABLE

WATCH_SECONDS = 1.0
MAX_MEMORY_SHARE = 0.8

log = structlog.get_logger()


class Pressure:
    """The current verdict. `reason` is empty while Redis has room for events."""

    def __init__(self, freshness: Freshness, max_backlog: int) -> None:
        self._freshness = freshness
        self._max_backlog = max_backlog
        self.reason = ""
        self._answers = True

    def refusal(self) -> str:
        """Why an event would not be kept now, "" while it would: for `/readyz`."""
        return self.reason or ("" if self._answers else "Redis does not answer")

    async def watch(self) -> None:
        """Look once a second, for ever. Redis being away is no pressure: the append itself will tell."""
        while True:
            try:
                reason = await reached_mark(self._freshness, self._max_backlog)
                self._answers = True
            except UNREACHABLE:
                reason, self._answers = self.reason, False
            except Exception as error:  # a watcher that has ended would keep its last verdict for ever
                log.error("the pressure on redis cannot be told", error=type(error).__name__)
                reason, self._answers = self.reason, False
            if reason != self.reason:
                log.warning(
                    "events go to the spool" if reason else "events go to the stream again", reason=reason
                )
            self.reason = reason
            await asyncio.sleep(WATCH_SECONDS)


async def reached_mark(freshness: Freshness, max_backlog: int) -> str:
    """The high-water mark that Redis has reached, in words; "" while it has room. Errors: UNREACHABLE."""
    share = await freshness.memory_share()
    if share > MAX_MEMORY_SHARE:
        return f"Redis uses {share:.0%} of its memory"
    if max(lag.entries for lag in await freshness.lag()) >= max_backlog:
        return "The stream has reached its high-water mark"
    return ""
