"""When the next insert begins: so that half of the events can be queried as soon as was aimed at.

Small parts cost a store more than their rows do, so events wait for others: half of them for up to half of
the time between two inserts, and then for their own insert. Where inserts take longer, since heavy queries
keep the store busy, that time is shorter by twice as much, and freshness stays about what it was.
"""

from __future__ import annotations

AIM = 0.66  # of the longest time between two inserts: what half of the events wait until they can be queried
SHORTEST = 2 / 3  # of it, too: a store that is slow must not get more and more small inserts because of that
LATELY = 1 / 8  # what one insert counts in what they take at present


class Pace:
    """Of one partition. `longest_seconds`: between the beginnings of two inserts. Times are monotonic."""

    def __init__(self, longest_seconds: float) -> None:
        self._longest = longest_seconds
        self._takes = 0.0
        self._next = 0.0

    def inserted(self, began: float, ended: float, *, is_backlog: bool) -> None:
        """A batch was read at `began`, acknowledged at `ended`. With a backlog the next need not wait."""
        if is_backlog:
            self._next = 0.0
            return
        self._takes += (ended - began - self._takes) * LATELY
        self._next = began + self.seconds

    def waits(self, now: float) -> float:
        """Seconds until the next insert may begin."""
        return max(0.0, self._next - now)

    @property
    def seconds(self) -> float:
        """From the beginning of the last insert to that of the next."""
        waiting = AIM * self._longest - self._takes
        return min(max(2 * waiting, SHORTEST * self._longest), self._longest)
