"""By how much this machine's clock is ahead of Redis's. Pure.

Each answer that tells Redis's time bounds it: that moment was between the question and the answer. Where the
two are far apart, because Redis or this process stood still, the bounds of the answer before say more.
"""

from __future__ import annotations

import msgspec

EXACT_MS = 500  # apart: as good as any other answer


class Ahead(msgspec.Struct, frozen=True):
    """In ms, below 0 for a clock that is behind."""

    least: int
    most: int


def learn(known: Ahead | None, asked_ms: int, redis_ms: int, answered_ms: int) -> Ahead:
    """The bounds after an answer. `known`: those before it, which a clock that was set makes untrue."""
    found = Ahead(asked_ms - redis_ms, answered_ms - redis_ms)
    if known is None or found.most - found.least <= EXACT_MS:
        return found
    is_another = found.least > known.most or found.most < known.least
    return found if is_another else known
