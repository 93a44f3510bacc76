"""A bound on what lasts: so many streams at once in this process, of one project, of one key. No waiting.

For exports and tails, which take as long as their clients like: who finds no place is told at once. A project
has half of all places at most, however many keys it makes, and a quarter is kept for projects that have none:
else two could have them all, for hours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import ApiError, Kind
from app.metrics import STREAMS

RETRY_AFTER_SECONDS = 10


class Places:
    """`what`: what takes them, in the plural, for the sentence that a client is told."""

    def __init__(self, at_once: int, of_one_key: int, what: str) -> None:
        self._at_once = at_once
        self._of_one_key = of_one_key
        self._what = what
        self._of_one_project = max(1, at_once // 2)
        self._kept = at_once // 4
        self._taken: Counter[str] = Counter()  # by key
        self._projects: Counter[str] = Counter()
        self._gauge = STREAMS.labels(what)
        self._gauge.set(0)

    @property
    def taken(self) -> int:
        """By all keys."""
        return self._taken.total()

    @contextmanager
    def take(self, project: str, key: str) -> Iterator[None]:
        """One of the places, while the context lasts.

        Errors: ApiError 429 when this key or its project has its share, 503 when the others are taken.
        """
        for whose, has, may in (
            ("key", self._taken[key], self._of_one_key),
            ("project", self._projects[project], self._of_one_project),
        ):
            if has >= may:
                raise ApiError(
                    Kind.RATE_LIMITED,
                    f"This {whose} has {may} {self._what} already, as many as it may; end one.",
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
        kept = self._kept if self._projects[project] else 0
        if self.taken >= self._at_once - kept:
            raise ApiError(
                Kind.UNAVAILABLE,
                f"{self.taken} {self._what} are under way, and no more for now; try again.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._taken[key] += 1
        self._projects[project] += 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._gauge.dec()
            for taken, whose in ((self._taken, key), (self._projects, project)):
                taken[whose] -= 1
                if not taken[whose]:
                    del taken[whose]
