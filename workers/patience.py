"""Trying the store again until it answers: backed off, loud, and only while the lease is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from app.store import StoreError

MAX_BACKOFF_SECONDS = 5.0

log = structlog.get_logger()
T = TypeVar("T")


class Patience:
    """For one partition. `fence` proves the lease and raises LeaseLost, which ends all trying."""

    def __init__(self, fence: Callable[[], Awaitable[None]], retry_delay_seconds: float) -> None:
        self._fence = fence
        self._retry_delay_seconds = retry_delay_seconds

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, which may be repeated. Errors: LeaseLost, redis errors."""
        failures = 0
        while True:
            try:
                return await call()
            except StoreError as error:
                failures += 1
                await self.pause(failures, error)

    async def pause(self, failures: int, error: StoreError) -> None:
        """Back off, loudly: once at the first failure, then at each power of two."""
        if failures & (failures - 1) == 0:
            log.warning("store failed, trying again", failures=failures, error=error.brief)
        await self._fence()
        await asyncio.sleep(min(self._retry_delay_seconds * 2 ** min(failures - 1, 10), MAX_BACKOFF_SECONDS))
