"""Ingest beside heavy queries: freshness and answers at a steady rate, without them and while ten are asked."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

import httpx

from bench import mixed, whole
from bench.context import Bench
from bench.markdown import number, table
from bench.process import memory_mb
from bench.stats import centile
from bench.whole import Watch, Whole
from tests.client import Client

TITLE = "Ingest beside heavy queries"
SECONDS = (170.0, 70.0)
EVENTS, QUICK_EVENTS = 1_000_000, 200_000
RATE = 2000
HEAVY = 10  # asked at any time, by two projects
LOOK_SECONDS = 0.1
STORE_SECONDS = 30.0
LIGHT_QUERY: dict[str, Any] = {
    "time_period": "minus_60_minutes",
    "group_by": ["event_name"],
    "computations": [{"function": "count"}],
}
# Twelve computations of two fields, for each of 12 event names; every quantile is exact.
HEAVY_QUERY: dict[str, Any] = {
    "time_period": mixed.PERIOD,
    "group_by": ["event_name"],
    "computations": [
        {"function": function, "field_name": name, "as": f"{function}_{index}"}
        for index, name in enumerate(("example_number_field", "order.amount"))
        for function in ("sum", "median", "p95", "p99", "stddev", "count_distinct")
    ],
    "limit": 10_000,
}
# The same for each of 400 sites too: an answer of 2 MB, which the edge decodes and renders beside its posts.
LARGE_QUERY = HEAVY_QUERY | {"group_by": ["example_string_field", "event_name"]}


class Heavy:
    """Ten clients of two projects ask without a pause, while the context lasts; one of them for a large answer."""

    def __init__(self, projects: list[Client]) -> None:
        self._stop = threading.Event()
        clients = [Client(projects[i % len(projects)].keys) for i in range(HEAVY)]
        queries = [LARGE_QUERY, *[HEAVY_QUERY] * (HEAVY - 1)]
        self._threads = [
            threading.Thread(target=self._run, args=each, daemon=True)
            for each in zip(clients, queries, strict=True)
        ]
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

    def _run(self, client: Client, query: dict[str, Any]) -> None:
        while not self._stop.is_set():
            at = time.monotonic()
            answer = client.ask(**query)
            if answer.status_code == 200:
                self.times.append((time.monotonic() - at) * 1000)
            else:
                self.refused.append(answer.text[:200])
        client.http.close()


class InTheStore(Watch):
    """Asks the store itself, as the service does: waits for no turn among clients' queries."""

    def __init__(self, running: Whole, name: str) -> None:
        super().__init__(running.service.keys, name)
        store = json.loads((running.service.state / "store.json").read_text())
        headers = {"X-ClickHouse-User": store["user"], "X-ClickHouse-Key": store["password"]}
        self._store = httpx.Client(base_url=store["url"], headers=headers, timeout=STORE_SECONDS)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        self._store.close()

    def look(self) -> int:
        sql = "SELECT count() FROM events WHERE project_id = {p:String} AND event_name = {n:String}"
        names = {"param_p": self._client.keys["project_id"], "param_n": self._name}
        answer = self._store.post("/", params={"database": "eventbunker", **names}, content=sql)
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        return int(answer.text)


class Light:
    """A client of the project whose events arrive asks a small question again and again."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._client = Client(keys)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times: list[float] = []

    def __enter__(self) -> Light:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._client.http.close()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            at = time.monotonic()
            if self._client.ask(**LIGHT_QUERY).status_code == 200:
                self.times.append((time.monotonic() - at) * 1000)


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
            with PeakMemory(running.pid("store")) as peak, Light(running.service.keys) as light:
                if name == "without":
                    level = _sustain(bench, running, seconds)
                else:
                    with Heavy(projects) as heavy:
                        level = _sustain(bench, running, seconds)
                    level["heavy"] = {
                        "answered": len(heavy.times),
                        "p50_ms": round(centile(heavy.times, 50)) if heavy.times else None,
                        "refused": len(heavy.refused),
                        "reasons": sorted(set(heavy.refused))[:3],
                    }
            level["light_ms"] = {str(n): round(centile(light.times, n)) for n in (50, 99) if light.times}
            levels.append({**level, "queries": name, "store_peak_mb": round(peak.mb)})
        return {"events": events, "heavy_alone_ms": round(alone), "levels": levels}


def _sustain(bench: Bench, running: Whole, seconds: float) -> dict[str, Any]:
    before = _drained(running)
    level = whole.sustain(bench, running, RATE, seconds, partial(InTheStore, running))
    waited, batches = (now - then for now, then in zip(_drained(running), before, strict=True))
    return {**level, "oldest_of_batch_ms": round(waited / batches * 1000)}


def _drained(running: Whole) -> tuple[float, float]:
    """What the drain itself says: seconds from append to queryable of the oldest of each batch, and how many."""
    metrics = dict(line.rsplit(" ", 1) for line in running.client.http.get("/metrics").text.splitlines())
    name = "eventbunker_freshness_seconds"
    return float(metrics.get(f"{name}_sum", 0)), float(metrics.get(f"{name}_count", 0))


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = [
        [
            "none" if level["queries"] == "without" else f"{HEAVY} at any time",
            f"{level['answered_per_second']:,.0f}",
            *(number(level[name]) for name in ("answer_p50_ms", "answer_p99_ms")),
            *(level[f"fresh_{name}_ms"] for name in ("p50", "p99", "worst")),
            level["oldest_of_batch_ms"],
            *(level["light_ms"].get(name, "none") for name in ("50", "99")),
            level["refused"] + level["broken"],
            level["store_peak_mb"],
        ]
        for level in result["levels"]
    ]
    head = [
        *("Heavy queries", "events answered/s", "answer p50 ms", "p99 ms"),
        *("queryable after, p50 ms", "p99 ms", "worst ms", "the drain's own mean, ms"),
        *("light query, p50 ms", "p99 ms", "refused or broken", "store, MB at most"),
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
            f"{RATE:,} events a second of one project, sent as under Freshness, and looked for in the store itself every "
            f"{whole.POLL_SECONDS * 1000:.0f} ms: a client's query would wait behind the heavy ones for its turn, which "
            "says nothing of ingest. What such a client waits is told beside it: a light query of the project whose "
            "events arrive. The drain's own mean is that of the oldest event of each batch. A heavy query takes "
            f"{result['events'] // 2:,} events of another project by their 12 names and computes twelve columns, six of them exact "
            f"quantiles: alone it takes {number(result['heavy_alone_ms'])} ms. Nine clients of two projects ask it again "
            "and again, each as soon as it was answered; a tenth asks for the same by 400 sites too, 4,800 rows or 2 MB. "
            "Of those ten at most eight have a place in the edge and four in the store, the others wait there for their "
            f"turn. Answered: {took}; refused: {heavy['refused']}. See [operate.md](operate.md#heavy-queries).",
        ]
    )  # fmt: skip
