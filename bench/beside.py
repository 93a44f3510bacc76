"""Ingest beside heavy queries: freshness and answers at a steady rate, without them, beside one and beside ten.

And what a client of another project waits for a small query meanwhile. At two rates: one that takes most of what
two processors have, and one of which a site with eight million events a day would be glad.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from functools import partial
from typing import Any, NamedTuple

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
SECONDS = (400.0, 70.0)
EVENTS, QUICK_EVENTS = 1_000_000, 200_000
ROUNDS, QUICK_ROUNDS = 3, 1
LOOK_SECONDS = 0.1
STORE_SECONDS = 30.0
LIGHT_QUERY: dict[str, Any] = {
    "time_period": "minus_60_minutes",
    "group_by": ["event_name"],
    "computations": [{"function": "count"}],
}


class Load(NamedTuple):
    """What goes on beside the heavy queries. Who looks for events often is a load too."""

    rate: int
    seconds: int
    look_seconds: float
    heavy: tuple[int, ...]  # clients, in turn


BUSY = Load(2000, 20, whole.LOOK_SECONDS, (0, 1, CLIENTS))
QUICK = Load(2000, 10, whole.LOOK_SECONDS, (0, CLIENTS))
USUAL = Load(100, 20, 1.0, (0, 1, CLIENTS))


class InTheStore(Watch):
    """Asks the store itself, as the service does: waits for no turn among clients' queries."""

    def __init__(self, running: Whole, every_seconds: float, name: str) -> None:
        super().__init__(running.service.keys, name, every_seconds)
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
    loads = {"quick": QUICK} if bench.is_quick else {"busy": BUSY, "usual": USUAL}
    with whole.start(bench) as running:
        events = bench.choose(EVENTS, QUICK_EVENTS)
        bench.progress.say(f"twice {events // 2:,} events")
        projects = [mixed.fill(running, events // 2) for _ in range(2)]
        running.client.track(event_name="first")
        alone = projects[0].ask(**QUERY).json()["elapsed_ms"]
        asked = {number: Heavy(bench, projects, number) for number in (1, CLIENTS)}
        rounds = bench.choose(ROUNDS, QUICK_ROUNDS)
        found = {name: _rounds(bench, running, load, asked, rounds) for name, load in loads.items()}
    return {
        "events": events,
        "heavy_alone_ms": round(alone),
        "loads": found,
        "heavy": {
            str(number): {
                "answered": len(heavy.times),
                "p50_ms": round(centile(heavy.times, 50)) if heavy.times else None,
                "refused": len(heavy.refused),
                "reasons": sorted(set(heavy.refused))[:3],
            }
            for number, heavy in asked.items()
        },
    }


def _rounds(
    bench: Bench, running: Whole, load: Load, asked: dict[int, Heavy], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """By how many heavy queries there were at any time, what each round found."""
    levels: dict[str, list[dict[str, Any]]] = {str(number): [] for number in load.heavy}
    for round_number in range(rounds):
        bench.progress.say(
            f"round {round_number + 1}: {load.rate} events a second, heavy queries {load.heavy} in turn"
        )
        for heavy in load.heavy:
            with asked[heavy] if heavy else contextlib.nullcontext():
                levels[str(heavy)].append(_level(bench, running, load))
    return levels


def _level(bench: Bench, running: Whole, load: Load) -> dict[str, Any]:
    with PeakMemory(running.pid("store")) as peak, Light(running.service.keys) as light:
        before = _drained(running)
        watching = partial(InTheStore, running, load.look_seconds)
        level = whole.sustain(bench, running, load.rate, load.seconds, watching)
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
LOOKED_FOR = {name for name in SHOWN if name.startswith(("asked_", "fresh_"))}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    loads = result["loads"]
    levels = [level for load in loads.values() for both in load.values() for level in both]
    heavy = {number: _told(found) for number, found in result["heavy"].items()}
    text = [
        _table(loads.get("busy") or loads["quick"], list(SHOWN)),
        f"{BUSY.rate:,} events a second of one project, sent as under Freshness, and looked for in the store itself every "
        f"{whole.LOOK_SECONDS * 1000:.0f} ms: a client's query would wait behind the heavy ones for its turn, which "
        "says nothing of ingest. Queryable is an event from when a question was asked whose answer had it; how "
        "long the answer took is of the question, and the two columns after that include it. What a client "
        "waits is told beside it: a light query of the project whose events arrive. The drain's own mean is that of the oldest event of each batch. A heavy query takes "
        f"{result['events'] // 2:,} events of another project by their 12 names and computes twelve columns, six of them exact "
        f"quantiles: alone it takes {number(result['heavy_alone_ms'])} ms. Nine clients of two projects, in a process "
        "of their own, ask it again and again, each as soon as it was answered; a tenth asks for the same by 400 "
        "sites too, 4,800 rows or 2 MB. Of those ten at most eight have a place in the edge and four in the store, "
        "the others wait there for their turn.",
    ]  # fmt: skip
    if "usual" in loads:
        text += [
            f"The same at {USUAL.rate} events a second, {USUAL.rate * 86_400 / 1e6:.1f} million a day, which are looked for once a "
            "second only, since looking is a load too.",
            _table(loads["usual"], [name for name in SHOWN if name not in LOOKED_FOR]),
        ]  # fmt: skip
    text += [
        f"Medians of the rounds, in turn; ratios are medians of the rounds' own. In all "
        f"{sum(level['answered'] for level in levels):,} events were answered, "
        f"{sum(level['refused'] + level['broken'] for level in levels):,} refused or broken; of one heavy query at a "
        f"time {heavy['1']}, of ten {heavy[str(CLIENTS)]}. See [operate.md](operate.md#heavy-queries).",
    ]  # fmt: skip
    return "\n\n".join(text)


def _told(heavy: dict[str, Any]) -> str:
    if heavy["p50_ms"] is None:
        return f"none was answered, {heavy['refused']} refused"
    took = number(heavy["p50_ms"])
    return f"{heavy['answered']} were answered in {took} ms each (p50), {heavy['refused']} refused"


def _table(levels: dict[str, list[dict[str, Any]]], names: list[str]) -> str:
    figures = {
        heavy: {name: [level[name] for level in rounds] for name in names} for heavy, rounds in levels.items()
    }
    none = figures["0"]
    rows = [
        ["none" if heavy == "0" else f"{heavy} at any time", *(number(median(of[name])) for name in names)]
        for heavy, of in figures.items()
    ]
    for heavy, of in figures.items():
        if heavy != "0":
            rows.append([f"{heavy} ÷ none", *(f"{ratio(of[name], none[name]):.2f}" for name in names)])
    for heavy, of in figures.items():
        which = "none" if heavy == "0" else heavy
        rows.append([f"spread, {which}", *(f"± {spread(of[name]) * 100:.0f} %" for name in names)])
    return table(["Heavy queries", *(SHOWN[name] for name in names)], rows)
