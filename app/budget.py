"""A bound on work that may be left out: a share of one processor, and what was saved for a burst."""

from __future__ import annotations

import time


class Budget:
    """Seconds of work: `share` of those that pass, and up to `burst_seconds` that were saved."""

    def __init__(self, share: float, burst_seconds: float) -> None:
        self._share = share
        self._burst_seconds = self._left = burst_seconds
        self._at = time.monotonic()

    def spend(self, seconds: float) -> None:
        """So much processor time was worked."""
        now = time.monotonic()
        left = min(self._burst_seconds, self._left + (now - self._at) * self._share) - seconds
        self._left = max(-self._burst_seconds, left)
        self._at = now

    @property
    def is_spent(self) -> bool:
        """Is there nothing left for now?"""
        self.spend(0.0)
        return self._left <= 0
