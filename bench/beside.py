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
from bench.heavy import CLIENTS, QUERY, Heavy
from bench.markdown import number, table
from bench.process import memory_mb
from bench.stats import centile, median, ratio, spread
from bench.whole import Watch, Whole
from tests.client import Client

TITLE = "Ingest beside heavy queries"
SECONDS = (230.0, 70.0)
EVENTS, QUICK_EVENTS = 1_000_000, 200_000
RATE = 2000
ROUNDS, QUICK_ROUNDS = 3, 1
LOOK_SECONDS = 0.1
STORE_SECONDS = 30.0
LIGHT_QUERY: dict[str, Any] = {
    "time_period": "minus_60_minutes",
    "group_by": ["event_name"],
    "computations": [{"function": "count"}],
}


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
    seconds = bench.choose(20, 10)
    with whole.start(bench) as running:
        events = bench.choose(EVENTS, QUICK_EVENTS)
        bench.progress.say(f"twice {events // 2:,} events")
        projects = [mixed.fill(running, events // 2) for _ in range(2)]
        running.client.track(event_name="first")
        alone = projects[0].ask(**QUERY).json()["elapsed_ms"]
        levels: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
        asked = Heavy(bench, projects)
        for number in range(bench.choose(ROUNDS, QUICK_ROUNDS)):
            bench.progress.say(
                f"round {number + 1}: {RATE} events a second for {seconds} s without, then with"
            )
            levels["without"].append(_level(bench, running, seconds))
            with asked:
                levels["with"].append(_level(bench, running, seconds))
    return {
        "events": events,
        "heavy_alone_ms": round(alone),
        "levels": levels,
        "heavy": {
            "answered": len(asked.times),
            "p50_ms": round(centile(asked.times, 50)) if asked.times else None,
            "refused": len(asked.refused),
            "reasons": sorted(set(asked.refused))[:3],
        },
    }


def _level(bench: Bench, running: Whole, seconds: float) -> dict[str, Any]:
    with PeakMemory(running.pid("store")) as peak, Light(running.service.keys) as light:
        before = _drained(running)
        level = whole.sustain(bench, running, RATE, seconds, partial(InTheStore, running))
        waited, batches = (now - then for now, then in zip(_drained(running), before, strict=True))
    return {
        **level,
        "oldest_of_batch_ms": round(waited / batches * 1000),
        "light_p50_ms": round(centile(light.times, 50)),
        "light_p99_ms": round(centile(light.times, 99)),
        "store_peak_mb": round(peak.mb),
    }


def _drained(running: Whole) -> tuple[float, float]:
    """What the drain itself says: seconds from append to queryable of the oldest of each batch, and how many."""
    metrics = dict(line.rsplit(" ", 1) for line in running.client.http.get("/metrics").text.splitlines())
    name = "eventbunker_freshness_seconds"
    return float(metrics.get(f"{name}_sum", 0)), float(metrics.get(f"{name}_count", 0))


SHOWN = {
    "answered_per_second": "events answered/s",
    "answer_p50_ms": "answer p50 ms",
    "answer_p99_ms": "p99 ms",
    "asked_p50_ms": "queryable after, p50 ms",
    "asked_p99_ms": "p99 ms",
    "asked_worst_ms": "worst ms",
    "fresh_p50_ms": "in an answer after, p50 ms",
    "fresh_p99_ms": "p99 ms",
    "oldest_of_batch_ms": "the drain's own mean, ms",
    "light_p50_ms": "light query, p50 ms",
    "light_p99_ms": "p99 ms",
    "store_peak_mb": "store, MB at most",
}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    figures = {
        which: {name: [level[name] for level in levels] for name in SHOWN}
        for which, levels in result["levels"].items()
    }
    without, beside = figures["without"], figures["with"]
    rows = [
        ["none", *(number(median(without[name])) for name in SHOWN)],
        [f"{CLIENTS} at any time", *(number(median(beside[name])) for name in SHOWN)],
        ["with ÷ without", *(f"{ratio(beside[name], without[name]):.2f}" for name in SHOWN)],
        ["spread without", *(f"± {spread(without[name]) * 100:.0f} %" for name in SHOWN)],
        ["spread with", *(f"± {spread(beside[name]) * 100:.0f} %" for name in SHOWN)],
    ]
    levels = [level for both in result["levels"].values() for level in both]
    heavy = result["heavy"]
    took = (
        "none"
        if heavy["p50_ms"] is None
        else f"{heavy['answered']} in {number(heavy['p50_ms'])} ms each (p50)"
    )
    return "\n\n".join(
        [
            table(["Heavy queries", *SHOWN.values()], rows),
            f"{RATE:,} events a second of one project, sent as under Freshness, and looked for in the store itself every "
            f"{whole.LOOK_SECONDS * 1000:.0f} ms: a client's query would wait behind the heavy ones for its turn, which "
            "says nothing of ingest. Queryable is an event from when a question was asked whose answer had it; how "
            "long the answer took is of the question, and the two columns after that include it. What a client "
            "waits is told beside it: a light query of the project whose events arrive. The drain's own mean is that of the oldest event of each batch. A heavy query takes "
            f"{result['events'] // 2:,} events of another project by their 12 names and computes twelve columns, six of them exact "
            f"quantiles: alone it takes {number(result['heavy_alone_ms'])} ms. Nine clients of two projects, in a process "
            "of their own, ask it again and again, each as soon as it was answered; a tenth asks for the same by 400 "
            "sites too, 4,800 rows or 2 MB. Of those ten at most eight have a place in the edge and four in the store, "
            f"the others wait there for their turn. Medians of {len(result['levels']['with'])} rounds in turn; the third "
            "line is the median of the rounds' own ratios. In all "
            f"{sum(level['answered'] for level in levels):,} events were answered, "
            f"{sum(level['refused'] + level['broken'] for level in levels):,} refused or broken; of the heavy queries "
            f"{took} were answered, {heavy['refused']} refused. See [operate.md](operate.md#heavy-queries).",
        ]
    )  # fmt: skip
