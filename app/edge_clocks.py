"""How far the clocks of edges are behind Redis's.

An event's `time_recorded` is by the clock of the edge that took it, and what is fresh by Redis's. So an edge
that is ninety seconds behind brings events that look recorded ninety seconds ago. Whoever counts on having
all that was recorded up to a moment has to stay behind the slowest.
"""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis

from app import presence
from app.redis_client import UNREACHABLE

ASK_SECONDS = 5.0  # without an answer no other file can go on from an export, which takes longer than that
_log = structlog.get_logger(__name__)


class EdgeClocks:
    """Of the edges of one queue. One for each process."""

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis = redis
        self._queue = queue
        self._behind_ms: int | None = None

    async def behind_ms(self) -> int | None:
        """Of the slowest; 0 where none is behind. While Redis is away, what was known last, or None where
        nothing ever was."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                self._behind_ms = -(await presence.clocks(self._redis, self._queue)).least
        except UNREACHABLE as error:
            _log.warning("edge_clocks_unknown", error=type(error).__name__)
        return self._behind_ms
