"""What funnels, retention and fields mean, in plain Python: the second opinion that the SQL is held against.

It works on the request as a client writes it and on events in order, and shares no code with `app`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

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


def _day(moment_ms: int, zone: str) -> date:
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms))
        .astimezone(ZoneInfo(zone))
        .date()
    )


def cohort_of(moment_ms: int, length: str, zone: str) -> date:
    """The first day of the day, week or month."""
    day = _day(moment_ms, zone)
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[length]


def next_of(cohort: date, length: str) -> date:
    if length == "month":
        return (cohort + timedelta(days=31)).replace(day=1)
    return cohort + timedelta(days=1 if length == "day" else 7)


def retention(
    request: dict[str, Any], events: Sequence[Event], period: tuple[int, int], now_ms: int
) -> dict[Any, dict[date, tuple[int, list[int | None]]]]:
    """By group, by cohort: its size, and by offset who came back. The group () is everybody."""
    zone, length = request.get("timezone", "UTC"), request["group_by_time"]
    returning = request.get("returning", request["first"])
    table: dict[Any, dict[date, tuple[int, list[int | None]]]] = {(): {}}
    cohort = cohort_of(period[0], length, zone)
    while cohort <= _day(period[1] - 1, zone):
        table[()][cohort] = _empty(cohort, request, now_ms)
        cohort = next_of(cohort, length)
    for own in by_customer(events, request, (-(2**60), 2**60)):
        begins = [i for i, e in enumerate(own) if selected(e, request["first"])]
        inside = [i for i in begins if period[0] <= own[i]["event_time"] < period[1]]
        before = [i for i in begins if own[i]["event_time"] < period[0]]
        if not inside or (request.get("new_only") and before):
            continue
        start = own[inside[0]]
        cohort = cohort_of(start["event_time"], length, zone)
        later = {
            cohort_of(e["event_time"], length, zone) for e in own[inside[0] + 1 :] if selected(e, returning)
        }
        groups = [()] + [(same(value_of(start, name)),) for name in request.get("group_by", [])]
        for group in groups:
            size, returned = table.setdefault(group, {}).setdefault(cohort, _empty(cohort, request, now_ms))
            here = cohort
            for offset, count in enumerate(returned):
                if count is not None and here in later:
                    returned[offset] = count + 1
                here = next_of(here, length)
            table[group][cohort] = size + 1, returned
    return table


def _empty(cohort: date, request: dict[str, Any], now_ms: int) -> tuple[int, list[int | None]]:
    today = _day(now_ms, request.get("timezone", "UTC"))
    returned: list[int | None] = []
    for _ in range(request["periods"] + 1):
        cohort = next_of(cohort, request["group_by_time"])
        returned.append(0 if cohort <= today else None)
    return 0, returned
