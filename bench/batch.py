"""Batches of 1, 10, 100 and 1000 events: identical ones as the yardstick sends them, and ones that differ."""

from __future__ import annotations

from typing import Any

from bench import bodies, versus
from bench.context import Bench
from bench.markdown import number, table
from bench.post import calm, conservation
from bench.subjects import ENGINES, Subject, engines
from bench.versus import Load

TITLE = "Batches"
SECONDS = (350.0, 35.0)
SIZES = (1, 10, 100, 1000)
CHIEF = 100  # the size of the wanted table: measured as long as single events are
VARIED = (100, 1000)


def measure(bench: Bench) -> dict[str, Any]:
    """Events a second of both engines and the peer."""
    directory = bench.directory("bodies")
    peer, without_peer = versus.peer_or_nothing(bench)
    loads = []
    for is_varied in (False, True):
        for size in VARIED if is_varied else SIZES:
            if bench.is_quick and (is_varied or size != CHIEF):
                continue
            name = load_name(size, is_varied)
            path = bodies.write(directory / name.replace(" ", "-"), size, is_varied=is_varied)
            seconds = bench.choose(6, 3) if size == CHIEF else 0
            loads.append(Load(name, "/batch", path, size, seconds))
    runs = versus.alternate(
        bench,
        [*(Subject("ours", engine, "always") for engine in reversed(engines())), *peer],
        loads,
        rounds=bench.choose(3, 2),
        warm=1,
        seconds=bench.choose(3, 3),
    )
    ratios = {
        f"{engine} ÷ peer @ {load.name}": versus.compare(
            runs, versus.key(f"ours {engine} always", load), versus.key("peer always", load)
        )
        for engine in ENGINES
        for load in loads
    }
    return {
        "median": versus.summary(runs),
        "ratios": {name: value for name, value in ratios.items() if value is not None},
        "conservation": versus.conservation(runs),
        "others": versus.disturbance(runs),
        "without_peer": without_peer,
        "rounds": runs,
    }


def load_name(size: int, is_varied: bool) -> str:
    return f"{size} {'varied' if is_varied else 'identical'}"


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    text = []
    for is_varied, title in ((False, "The same event again and again"), (True, "Events that differ")):
        rows = []
        for size in SIZES:
            load = load_name(size, is_varied)
            if f"ours hypercorn always @ {load}" not in result["median"]:
                continue
            row = [str(size)]
            for subject in ("ours uvicorn always", "ours hypercorn always", "peer always"):
                figures = result["median"].get(f"{subject} @ {load}")
                row.append(f"{figures['events_per_second']:,.0f}" if figures else "–")
            row += [number(result["ratios"].get(f"{engine} ÷ peer @ {load}")) for engine in reversed(ENGINES)]
            rows.append(row)
        if rows:
            head = [
                *("Events in a batch", "ours, uvicorn: events/s", "ours, Hypercorn", "peer"),
                *("uvicorn ÷ peer", "Hypercorn ÷ peer"),
            ]
            text += [f"{title}, durable on both sides:", table(head, rows)]
    text += [
        "![Events a second by size of the batch](performance/batch.svg)",
        conservation(result["conservation"]),
        calm(result["others"]),
        "Ours checks every rule of every event, and the client's bytes stay as they came; the peer checks the three "
        "fields that its schema names and writes the batch anew.",
    ]
    if result["without_peer"]:
        text.append(f"Without the peer: {result['without_peer']}")
    return "\n\n".join(text)


def lines(result: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """For the plot: subject -> (size, events a second), of identical events."""
    found: dict[str, list[tuple[float, float]]] = {}
    names = list(result["median"])
    for name in names:
        subject, _, load = name.partition(" @ ")
        size, kind = load.split()
        if kind == "identical":
            found.setdefault(subject, []).append((float(size), result["median"][name]["events_per_second"]))
    return found
