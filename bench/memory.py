"""Memory of one edge process over a million requests, and of the whole service, idle and loaded."""

from __future__ import annotations

from typing import Any

from bench import bodies, versus, whole, wrk
from bench.context import Bench, Skip
from bench.markdown import number, table
from bench.process import memory_mb
from bench.stats import median
from bench.subjects import Subject, engines

TITLE = "Memory"
SECONDS = (420.0, 60.0)
STEP = 50_000
LIMIT_MB = 90.0
FLAT_MB = 2.0  # what a process may have grown in the second half of its requests
LONGEST_RUN = 60


def measure(bench: Bench) -> dict[str, Any]:
    """Every 50,000 requests, between two runs of wrk, what the process has."""
    if wrk.is_missing():
        raise Skip(wrk.MISSING)
    total = bench.choose(1_000_000, 100_000)
    path = bodies.write(bench.directory("bodies") / "varied", 0, is_varied=True)
    edges = {engine: _one_edge(bench, engine, total, versus.Load("", "/post", path)) for engine in engines()}
    bench.progress.say("the whole service")
    with whole.start(bench) as running:
        running.client.track(event_name="first")
        idle = running.memory()
        whole.sustain(bench, running, 2000, bench.choose(30, 10))
        loaded = running.memory()
    return {"edges": edges, "idle": idle, "loaded": loaded}


def _one_edge(bench: Bench, engine: str, total: int, load: versus.Load) -> dict[str, Any]:
    with Subject("ours", engine, "always").run(bench) as running:
        start = memory_mb(running.pid)["pss"]
        served, seconds = 0, 1
        points: list[tuple[int, float]] = []
        while served < total:
            url = f"{running.url}{load.path}"
            told = wrk.run(bench.keeper, url, running.key, load.bodies, seconds=seconds, on=bench.load_core)
            if told.bad or not told.good:
                raise RuntimeError(f"{told.bad} answers were no 200 after {served} requests")
            served += told.good
            running.take()  # so that Redis stays small
            points.append((served, round(memory_mb(running.pid)["pss"], 1)))
            seconds = max(1, min(LONGEST_RUN, round(STEP / (told.good / told.seconds))))
            bench.progress.say(f"{engine}: {served:,} requests, {points[-1][1]} MB")
        return {
            "start_mb": round(start, 1),
            "points": points,
            "served": served,
            "last_mb": points[-1][1],
            "largest_mb": max(size for _, size in points),
            "peak_rss_mb": round(memory_mb(running.pid)["peak"], 1),
            "growth_mb": growth(points),
        }


def growth(points: list[tuple[int, float]]) -> float:
    """From the middle of the requests to their end: medians of the third and the last quarter."""
    quarter = max(1, len(points) // 4)
    sizes = [size for _, size in points]
    third = sizes[len(sizes) // 2 : len(sizes) // 2 + quarter]
    return round(median(sizes[-quarter:]) - median(third or sizes), 1)


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = [
        [
            engine,
            f"{one['served']:,}",
            *(number(one[name]) for name in ("start_mb", "last_mb", "largest_mb", "peak_rss_mb")),
            f"{one['growth_mb']:+.1f}",
        ]
        for engine, one in result["edges"].items()
    ]
    head = [
        *("One edge process, engine", "requests", "at its start, MB", "after them", "largest seen"),
        *("peak RSS", "grown in the second half"),
    ]
    names = list(result["idle"])
    both = [
        [state, *(number(result[key].get(name, 0.0)) for name in names)]
        for state, key in (("after one event", "idle"), ("at 2,000 events/s", "loaded"))
    ]
    return "\n\n".join(
        [
            table(head, rows),
            "![Memory of an edge process](performance/memory.svg)",
            "Proportional set size, every 50,000 requests of 32 connections with events that differ; the peak is of "
            "the resident set, which also counts pages that are shared. The whole service, in MB:",
            table(["Whole service", *names], both),
        ]
    )


def lines(result: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """For the plot: engine -> (requests, MB)."""
    return {
        engine: [(served, size) for served, size in [(0, one["start_mb"]), *one["points"]]]
        for engine, one in result["edges"].items()
    }
