"""Ingest beside heavy queries: freshness and answers at a steady rate, without them and while ten are asked."""

from __future__ import annotations

import threading
import time
from typing import Any

from bench import mixed, whole
from bench.context import Bench
from bench.markdown import number, table
from bench.process import memory_mb
from bench.stats import centile
from tests.client import Client

TITLE = "Ingest beside heavy queries"
SECONDS = (170.0, 70.0)
EVENTS, QUICK_EVENTS = 1_000_000, 200_000
RATE = 2000
HEAVY = 10  # asked at any time, by two projects
LOOK_SECONDS = 0.1
# Twelve computations of two fields for each of 400 sites and 12 event names; every quantile is exact.
HEAVY_QUERY: dict[str, Any] = {
    "time_period": mixed.PERIOD,
    "group_by": ["example_string_field", "event_name"],
    "computations": [
        {"function": function, "field_name": name, "as": f"{function}_{index}"}
        for index, name in enumerate(("example_number_field", "order.amount"))
        for function in ("sum", "median", "p95", "p99", "stddev", "count_distinct")
    ],
    "limit": 10_000,
}


class Heavy:
    """Ten clients of two projects ask without a pause, while the context lasts."""

    def __init__(self, projects: list[Client]) -> None:
        self._stop = threading.Event()
        clients = [Client(projects[i % len(projects)].keys) for i in range(HEAVY)]
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in clients]
        self.times: list[float] = []
        self.refused: list[str] = []

    def __enter__(self) -> Heavy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, client: Client) -> None:
        while not self._stop.is_set():
            at = time.monotonic()
            answer = client.ask(**HEAVY_QUERY)
            if answer.status_code == 200:
                self.times.append((time.monotonic() - at) * 1000)
            else:
                self.refused.append(answer.text[:200])
        client.http.close()


class PeakMemory:
    """The largest resident set of the store, in MB, while the context lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.mb = max(self.mb, memory_mb(self._pid)["rss"])


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, Hypercorn, defaults. The rate is one project's, the heavy queries two others'."""
    seconds = bench.choose(30, 10)
    with whole.start(bench) as running:
        events = bench.choose(EVENTS, QUICK_EVENTS)
        bench.progress.say(f"twice {events // 2:,} events")
        projects = [mixed.fill(running, events // 2) for _ in range(2)]
        running.client.track(event_name="first")
        alone = projects[0].ask(**HEAVY_QUERY).json()["elapsed_ms"]
        levels = []
        for name in ("without", "with"):
            bench.progress.say(f"{RATE} events a second for {seconds} s, {name} heavy queries")
            with PeakMemory(running.pid("store")) as peak:
                if name == "without":
                    level: dict[str, Any] = whole.sustain(bench, running, RATE, seconds)
                else:
                    with Heavy(projects) as heavy:
                        level = whole.sustain(bench, running, RATE, seconds)
                    level["heavy"] = {
                        "answered": len(heavy.times),
                        "p50_ms": round(centile(heavy.times, 50)) if heavy.times else None,
                        "refused": len(heavy.refused),
                        "reasons": sorted(set(heavy.refused))[:3],
                    }
            levels.append({**level, "queries": name, "store_peak_mb": round(peak.mb)})
        return {"events": events, "heavy_alone_ms": round(alone), "levels": levels}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = [
        [
            "none" if level["queries"] == "without" else f"{HEAVY} at any time",
            f"{level['answered_per_second']:,.0f}",
            *(number(level[name]) for name in ("answer_p50_ms", "answer_p99_ms")),
            *(level[f"fresh_{name}_ms"] for name in ("p50", "p99", "worst")),
            level["refused"] + level["broken"],
            level["store_peak_mb"],
        ]
        for level in result["levels"]
    ]
    head = [
        *("Heavy queries", "events answered/s", "answer p50 ms", "p99 ms"),
        *("queryable after, p50 ms", "p99 ms", "worst ms", "refused or broken", "store, MB at most"),
    ]
    heavy = result["levels"][-1]["heavy"]
    took = (
        "none"
        if heavy["p50_ms"] is None
        else f"{heavy['answered']} in {number(heavy['p50_ms'])} ms each (p50)"
    )
    return "\n\n".join(
        [
            table(head, rows),
            f"{RATE:,} events a second of one project, sent and looked for as under Freshness. A heavy query groups half "
            "a million events of another project by two fields and computes twelve columns, six of them exact "
            f"quantiles: alone it takes {number(result['heavy_alone_ms'])} ms. Ten clients of two projects ask it again "
            "and again, each as soon as it was answered; of those ten at most eight have a place in the edge and four in the "
            f"store, the others wait there for their turn. Answered: {took}; refused: {heavy['refused']}. See "
            "[operate.md](operate.md#heavy-queries).",
        ]
    )  # fmt: skip
