"""What funnels, retention and fields mean, in plain Python: the second opinion that the SQL is held against.

It works on the request as a client writes it and on events in order, and shares no code with `app`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.query_oracle import Event, matches, same, value_of

_UNITS = {"seconds": 1000, "minutes": 60_000, "hours": 3_600_000, "days": 86_400_000, "weeks": 604_800_000}


def selected(event: Event, selection: dict[str, Any]) -> bool:
    """Is it one of these events?"""
    name = selection.get("event_name")
    return (name is None or event["event_name"] == name) and all(
        matches(event, item) for item in selection.get("filters", [])
    )


def by_customer(
    events: Sequence[Event], request: dict[str, Any], period: tuple[int, int]
) -> list[list[Event]]:
    """The events that count, of each customer, in order."""
    found: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        value = value_of(event, request.get("by", "customer_identifier"))
        in_time = period[0] <= event["event_time"] < period[1]
        if value is not None and in_time and selected(event, {"filters": request.get("filters", [])}):
            found[same(value)].append(event)
    return list(found.values())


def attempt(events: Sequence[Event], start: int, steps: Sequence[dict[str, Any]], window: int) -> list[int]:
    """The times of the steps of the attempt that begins with `events[start]`."""
    times = [events[start]["event_time"]]
    for event in events[start + 1 :]:
        if len(times) == len(steps) or event["event_time"] - times[0] > window:
            break
        if selected(event, steps[len(times)]):
            times.append(event["event_time"])
    return times


def best_attempt(
    events: Sequence[Event], steps: Sequence[dict[str, Any]], window: int
) -> tuple[Event, list[int]] | None:
    """The event that begins the attempt which counts, and the times of its steps."""
    best: tuple[Event, list[int]] | None = None
    for start, event in enumerate(events):
        if selected(event, steps[0]):
            times = attempt(events, start, steps, window)
            if best is None or len(times) > len(best[1]):
                best = event, times
    return best


def funnel(
    request: dict[str, Any], events: Sequence[Event], period: tuple[int, int]
) -> tuple[Any, dict[Any, Any]]:
    """Per step (count, median from the previous, median from the first): in all, and by group."""
    count, _, unit = request.get("window", "30_days").partition("_")
    window = int(count) * _UNITS[unit]
    reached: dict[Any, list[list[int]]] = defaultdict(list)
    for own in by_customer(events, request, period):
        best = best_attempt(own, request["steps"], window)
        if best is not None:
            group = tuple(same(value_of(best[0], name)) for name in request.get("group_by", []))
            reached[group].append(best[1])
    size = len(request["steps"])
    total = _steps([times for some in reached.values() for times in some], size)
    return total, {group: _steps(some, size) for group, some in reached.items()}


def _steps(reached: Sequence[list[int]], size: int) -> list[tuple[int, float | None, float | None]]:
    steps: list[tuple[int, float | None, float | None]] = []
    for step in range(size):
        here = [times for times in reached if len(times) > step]
        if not here or not step:
            steps.append((len(here), None, None))
            continue
        previous = statistics.median(times[step] - times[step - 1] for times in here)
        steps.append((len(here), previous, statistics.median(times[step] - times[0] for times in here)))
    return steps
