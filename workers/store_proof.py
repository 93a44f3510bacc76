"""Does the store answer? What the drains of one process ask before they prove that they work."""

from __future__ import annotations

import asyncio
import time

import structlog

from app.store import Store, StoreError

PROOF_SECONDS = 1.0

log = structlog.get_logger()


class StoreProof:
    """Does the store answer? Asked at most once a second, however many partitions want to know."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._next = 0.0
        self._answers = False

    async def holds(self) -> bool:
        """True when the store has answered within the last second or so."""
        async with self._lock:
            if time.monotonic() >= self._next:
                try:
                    await self._store.ask("SELECT 1", timeout_seconds=2)
                    self._answers = True
                except StoreError as error:
                    log.warning("the store does not answer", error=error.brief)
                    self._answers = False
                self._next = time.monotonic() + PROOF_SECONDS
            return self._answers
