"""By how much this machine's clock is ahead of Redis's. Pure.

Each answer that tells Redis's time bounds it: that moment was between the question and the answer. Where the
two are far apart, because Redis or this process stood still, the bounds of an answer before say more.
"""

from __future__ import annotations

import msgspec


class Ahead(msgspec.Struct, frozen=True):
    """In ms, below 0 for a clock that is behind."""

    least: int
    most: int

    @property
    def width(self) -> int:
        return self.most - self.least


def learn(known: Ahead | None, asked_ms: int, redis_ms: int, answered_ms: int) -> Ahead:
    """The bounds after an answer: the closer of these and of those that were `known`, unless both cannot be
    true. Then the clock was set, or has drifted: the new ones are."""
    found = Ahead(asked_ms - redis_ms, answered_ms - redis_ms)
    if known is None or found.least > known.most or found.most < known.least:
        return found
    return min(found, known, key=lambda one: one.width)
