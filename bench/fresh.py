"""Freshness: from the 200 to the query that sees the event, at steady rates and for lone events."""

from __future__ import annotations

import time
from typing import Any

from bench import whole
from bench.context import Bench
from bench.markdown import table
from bench.stats import centile
from tests.client import unique
from tests.waiting import until

TITLE = "Freshness"
SECONDS = (250.0, 30.0)
RATES = ((200, 20), (2000, 60), (5000, 20))  # events a second, seconds
QUICK_RATES = ((2000, 15),)
LONE = 200


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, Hypercorn, defaults; each rate in turn, then lone events."""
    with whole.start(bench) as running:
        running.client.track(event_name="first")
        levels = []
        for rate, seconds in QUICK_RATES if bench.is_quick else RATES:
            bench.progress.say(f"{rate} events a second for {seconds} s")
            levels.append(whole.sustain(bench, running, rate, seconds))
        bench.progress.say("lone events")
        lone = lone_events(running, bench.choose(LONE, 30))
    return {"levels": levels, "lone": lone}


def lone_events(running: whole.Whole, events: int) -> dict[str, float]:
    """One after another, each as soon as the one before was seen."""
    name, found = unique("lone"), []
    for number in range(1, events + 1):
        running.client.track(event_name=name)
        answered = time.monotonic()
        until(lambda expected=number: running.client.count(name) == expected, 30, "the event")  # type: ignore[misc]
        found.append((time.monotonic() - answered) * 1000)
    return {
        "events": events,
        "p50_ms": round(centile(found, 50)),
        "p99_ms": round(centile(found, 99)),
        "worst_ms": round(max(found)),
    }


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = []
    for level in result["levels"]:
        rows.append(
            [
                f"{level['rate']:,}",
                f"{level['answered_per_second']:,.0f}",
                f"{level['answer_p99_ms']:.0f}",
                *(level[f"fresh_{name}_ms"] for name in ("p50", "p99", "worst")),
                f"{level['answered']:,} / {level['queryable']:,}",
                level["refused"] + level["broken"],
                level["cores_busy"],
            ]
        )
    lone = result["lone"]
    head = [
        *("Events/s asked for", "answered/s", "answer p99 ms", "queryable after, p50 ms", "p99 ms"),
        *("worst ms", "answered / queryable", "refused or broken", "cores busy"),
    ]
    resolution = max(level["resolution_ms"] for level in result["levels"])
    return "\n\n".join(
        [
            table(head, rows),
            "![Freshness by rate](performance/fresh.svg)",
            f"{lone['events']} lone events, each as soon as the one before was seen: p50 {lone['p50_ms']} ms, p99 "
            f"{lone['p99_ms']} ms, worst {lone['worst_ms']} ms.",
            "The whole service with its defaults, on all cores, the sender and the one who asks beside it. The "
            "sender keeps its rate whatever the answers do, and an answer's time counts from when its event was "
            "due. A second client asks the query API again and again for the number of these events; the n-th event "
            "answered is seen when n are counted, at the time of that answer. "
            f"Two such answers were {resolution:.0f} ms apart at most in the median, which is what the figures "
            "may be too large by; asking is itself load.",
        ]
    )


def lines(result: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """For the plot: p50, p99 and worst -> (rate, ms)."""
    return {
        name: [(level["rate"], level[f"fresh_{name}_ms"]) for level in result["levels"]]
        for name in ("p50", "p99", "worst")
    }
