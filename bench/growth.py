"""What an event costs each part, in processor time, as the load and the table grow tenfold."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from bench import bodies, whole, wrk
from bench.context import Bench
from bench.markdown import number, table
from bench.whole import ROLES, Whole
from tests.client import unique
from tests.waiting import until

TITLE = "Cost of an event as load and table grow"
SECONDS = (300.0, 60.0)
RATES = (200, 2000, 4000)
ROWS = (100_000, 1_000_000, 10_000_000)
QUICK_ROWS = (10_000, 100_000)
SETTLE_SECONDS = 120.0
STATEMENT_SECONDS = 600.0
MERGE_SECONDS = 300.0
SPREAD_SECONDS = 30 * 86_400


def measure(bench: Bench) -> dict[str, Any]:
    """Hypercorn, defaults. First the load on a small table, then one load on tables of growing size."""
    seconds = bench.choose(12, 6)
    with whole.start(bench) as running:
        running.client.track(event_name="first")
        idle = _idle(running, bench.choose(10, 4))
        by_load = []
        for rate in RATES:
            bench.progress.say(f"{rate} events a second")
            by_load.append(_costs(whole.sustain(bench, running, rate, seconds)))
        if not wrk.is_missing():
            bench.progress.say("as many as it takes")
            by_load.append(_saturate(bench, running, bench.choose(10, 5)))
        by_rows = []
        for rows in QUICK_ROWS if bench.is_quick else ROWS:
            bench.progress.say(f"a table of {rows:,} rows")
            fill(running, rows)
            by_rows.append({"rows": rows, **_costs(whole.sustain(bench, running, 2000, seconds))})
    return {"idle_cpu_percent": idle, "by_load": by_load, "by_rows": by_rows}


def _costs(level: dict[str, Any]) -> dict[str, Any]:
    names = ("rate", "answered_per_second", "cpu_us_per_event", "fresh_p50_ms", "fresh_p99_ms", "cores_busy")
    return {name: level[name] for name in names}


def _idle(running: Whole, seconds: int) -> dict[str, float]:
    """Percent of a core that each part uses when nothing is asked of it."""
    before, began = running.cpu(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {role: round((used - before[role]) / took * 100, 1) for role, used in running.cpu().items()}


def _saturate(bench: Bench, running: Whole, seconds: int) -> dict[str, Any]:
    """wrk sends as fast as it is answered; the count ends when the drain is through."""
    path = bodies.write(bench.directory("bodies") / "varied", 0, is_varied=True)
    url, key = f"{running.service.url}/post", running.service.keys["write_key"]
    before, began = running.cpu(), time.monotonic()
    told = wrk.run(bench.keeper, url, key, path, seconds=seconds, on=bench.both_cores)
    until(lambda: _is_drained(running), SETTLE_SECONDS, "an empty stream")
    took = time.monotonic() - began
    cpu = {role: used - before[role] for role, used in running.cpu().items()}
    return {
        "rate": "as many as it takes",
        "answered_per_second": round(told.good / told.seconds, 1),
        "cpu_us_per_event": {role: round(used / told.good * 1e6, 1) for role, used in cpu.items()},
        "fresh_p50_ms": None,
        "fresh_p99_ms": None,
        "cores_busy": round(sum(cpu.values()) / took, 2),
    }


def _is_drained(running: Whole) -> bool:
    """Is an event that is sent now seen at once? Then nothing waits before it."""
    name = unique("after")
    running.client.track(event_name=name)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        if running.client.count(name):
            return True
        time.sleep(0.05)
    return False


def fill(running: Whole, rows: int) -> None:
    """Copy what was tracked until the table has about `rows` rows, of the 30 days before, and is at rest."""
    have = int(statement(running, "SELECT count() FROM eventbunker.events"))
    while have < rows:
        source = min(have, 200_000, rows - have)
        times = min(10, max(1, (rows - have) // source))
        columns = json.loads(
            statement(running, "SELECT groupArray(name) AS n FROM (SELECT name FROM system.columns WHERE "
                      "database = 'eventbunker' AND table = 'events' AND default_kind = '' ORDER BY position) "
                      "FORMAT JSONEachRow")
        )["n"]  # fmt: skip
        changed = {
            "unique_req_id": "randomFixedString(16)",
            "time_recorded": "now64(3) - toIntervalSecond(age)",
            "event_time": "now64(3) - toIntervalSecond(age)",
        }
        chosen = ", ".join(f"{changed.get(name, name)}" for name in columns)
        statement(
            running,
            f"INSERT INTO eventbunker.events ({', '.join(columns)}) SELECT {chosen} FROM "
            f"(SELECT *, rand64(n.number) % {SPREAD_SECONDS} AS age FROM (SELECT * FROM eventbunker.events "
            f"LIMIT {source}) AS e CROSS JOIN numbers({times}) AS n) SETTINGS min_insert_block_size_rows = 100000, "
            "min_insert_block_size_bytes = 0, max_block_size = 65536, max_insert_threads = 1",
        )
        have = int(statement(running, "SELECT count() FROM eventbunker.events"))
    until(
        lambda: statement(running, "SELECT count() FROM system.merges").strip() == "0",
        MERGE_SECONDS,
        "the end of the merges",
    )


def statement(running: Whole, sql: str) -> str:
    """Ask the embedded store as any ClickHouse client may. Errors: httpx.HTTPStatusError."""
    store = json.loads((running.service.state / "store.json").read_text())
    answer = httpx.post(
        store["url"],
        content=sql,
        headers={"X-ClickHouse-User": store["user"], "X-ClickHouse-Key": store["password"]},
        timeout=STATEMENT_SECONDS,
    )
    if answer.status_code != 200:
        raise RuntimeError(f"the store refused a statement: {answer.text[:300]}")
    return answer.text


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    idle = ", ".join(f"{role} {percent} %" for role, percent in result["idle_cpu_percent"].items())
    head = [
        *(f"{role}, CPU µs an event" for role in ROLES),
        "together",
        "fresh p50 ms",
        "p99 ms",
        "cores busy",
    ]

    def cells(level: dict[str, Any]) -> list[str]:
        costs = [level["cpu_us_per_event"][role] for role in ROLES]
        fresh = [number(level[f"fresh_{name}_ms"]) for name in ("p50", "p99")]
        return [*(number(cost) for cost in costs), number(sum(costs)), *fresh, number(level["cores_busy"])]

    by_load = [[load_name(level), *cells(level)] for level in result["by_load"]]
    by_rows = [[f"{level['rows']:,}", *cells(level)] for level in result["by_rows"]]
    return "\n\n".join(
        [
            table(["Events a second", *head], by_load),
            table(["Rows in the table, at 2,000 events/s", *head], by_rows),
            "![Processor time of an event](performance/growth.svg)",
            f"The whole service under Hypercorn; what it uses idle is in it ({idle} of a core). The store also answers "
            "the query that asks for freshness every few hundredths of a second, and merges: both are in its figure. "
            "Few events a second are dear because five inserts a second cost the same whether they hold 40 "
            "events or 400.",
        ]
    )


def load_name(level: dict[str, Any]) -> str:
    asked = level["rate"]
    return f"{asked:,}" if isinstance(asked, int) else f"{asked}: {level['answered_per_second']:,.0f}"


def bars(result: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, float]]]]:
    """For the plot: two groups of stacked bars, label -> part -> µs."""
    return {
        "by events a second": [
            (load_name(level).rpartition(": ")[2], level["cpu_us_per_event"]) for level in result["by_load"]
        ],
        "by rows in the table": [
            (f"{level['rows']:,}", level["cpu_us_per_event"]) for level in result["by_rows"]
        ],
    }
