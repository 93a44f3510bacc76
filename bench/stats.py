"""Medians, ratios and centiles: what is quoted of several runs. Pure."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """The middle one. Errors: ValueError when there are none."""
    if not values:
        raise ValueError("the median of nothing")
    return statistics.median(values)


def centile(values: Sequence[float], hundredth: float) -> float:
    """The smallest value that at least `hundredth` percent do not exceed. Errors: ValueError."""
    if not values:
        raise ValueError("a centile of nothing")
    rank = max(1, -(-len(values) * hundredth // 100))
    return sorted(values)[int(rank) - 1]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: round by round, so that a slow minute of the machine slows both."""
    return median([one / other for one, other in zip(ours, theirs, strict=True)])


def spread(values: Sequence[float]) -> float:
    """Half of the distance between the extremes, as a part of the median: how far to trust it."""
    return (max(values) - min(values)) / 2 / median(values)


def delays(answered: Sequence[float], polls: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds from each answer to the first poll that saw it; a poll is its time and how many it counted.

    The stream is stored in its order, so the n-th event to be answered is there when n of them are: within
    one group commit, whose answers are sent together, the n-th may be another, which changes no sum.
    Events that no poll saw are left out.
    """
    times, counts = [time for time, _ in polls], [count for _, count in polls]
    found = []
    for number, moment in enumerate(sorted(answered), 1):
        seen = bisect_left(counts, number)
        if seen < len(times):
            found.append(max(0.0, times[seen] - moment))
    return found
