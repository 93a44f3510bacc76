"""One customer is erased while events come in: when it is invisible, when it is gone, and what others notice."""

from __future__ import annotations

import threading
import time
from typing import Any

from bench import mixed, whole
from bench.context import Bench
from bench.markdown import number, table
from bench.stats import centile
from tests.client import Client, equals
from tests.waiting import until

TITLE = "Erasing under load"
SECONDS = (150.0, 90.0)
EVENTS, QUICK_EVENTS = 1_000_000, 100_000  # a customer for each hundred
RATE = 1000
LOAD_SECONDS, QUICK_LOAD_SECONDS = 60, 30
DONE_SECONDS = 300.0
ERASED = 5  # customers, one after the other
COUNT = {"function": "count"}
POLL_SECONDS = 0.2


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, Hypercorn, defaults. Errors: AssertionError where too much or too little is erased."""
    with whole.start(bench) as running:
        events = bench.choose(EVENTS, QUICK_EVENTS)
        bench.progress.say(f"{events:,} events")
        project = mixed.fill(running, events)
        running.client.track(event_name="first")
        before = _by_customer(project)
        customers = sorted(before, key=lambda one: (before[one] != 100, one))[:ERASED]
        load: dict[str, Any] = {}
        seconds = bench.choose(LOAD_SECONDS, QUICK_LOAD_SECONDS)
        sending = threading.Thread(
            target=lambda: load.update(whole.sustain(bench, running, RATE, seconds)), daemon=True
        )
        bench.progress.say(f"{RATE} events a second, {ERASED} customers are erased")
        sending.start()
        time.sleep(2)
        found = [_erase(project, one, before[one]) for one in customers]
        found = [one | _gone(project, one["erasure_id"]) for one in found]
        sending.join()
        after = _by_customer(project)
        expected = {one: count for one, count in before.items() if one not in customers}
        assert after == expected, "others' events are not what they were"
    return {"events": events, "customers": len(before), "erased": found, "load": load}


def _by_customer(project: Client) -> dict[str, int]:
    """Events of each, as queries see them."""
    found: dict[str, int] = {}
    while True:
        rows = project.rows(
            time_period=mixed.PERIOD,
            group_by=["customer_identifier"],
            computations=[COUNT],
            limit=10_000,
            offset=len(found),
        )
        found |= {str(row["customer_identifier"]): int(row["count"]) for row in rows}
        if len(rows) < 10_000:
            return found


def _erase(project: Client, customer: str, has: int) -> dict[str, Any]:
    headers = {"x-eventbunker-delete-key": project.keys["delete_key"]}
    one = equals("customer_identifier", customer)
    began = time.monotonic()
    answer = project.http.post("/v1/delete/events", json={"filters": [one]}, headers=headers)
    assert answer.status_code == 200, answer.text
    answered = time.monotonic() - began
    rows = project.rows(time_period=mixed.PERIOD, computations=[COUNT], filters=[one])
    assert not sum(row["count"] for row in rows), "a query sees what was erased"
    seen = time.monotonic() - began
    matched = answer.json()["matched"]
    assert matched == has, f"{matched} matched, {has} there"

    return {
        "erasure_id": answer.json()["erasure_id"],
        "matched": matched,
        "answer_ms": round(answered * 1000),
        "invisible_ms": round(seen * 1000),
    }


def _gone(project: Client, erasure_id: str) -> dict[str, Any]:
    """Waits for it."""
    headers = {"x-eventbunker-delete-key": project.keys["delete_key"]}

    def status() -> dict[str, Any] | None:
        told: dict[str, Any] = project.http.post(
            "/v1/delete/status", json={"erasure_id": erasure_id}, headers=headers
        ).json()
        time.sleep(POLL_SECONDS)
        return told if told["state"] == "done" else None

    told = until(status, DONE_SECONDS, "the end of the erasure") or {}
    assert not any(told["remaining"].values()), told
    return {
        "rows_gone_s": round((told["rows_gone_at"] - told["asked_at"]) / 1000, 1),
        "done_s": round((told["done_at"] - told["asked_at"]) / 1000, 1),
    }


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    erased, load = result["erased"], result["load"]

    def both(name: str) -> list[str]:
        values = [one[name] for one in erased]
        return [number(centile(values, 50)), number(max(values))]

    rows = [
        ["the answer, ms", *both("answer_ms")],
        ["a query after it that sees none of them, ms", *both("invisible_ms")],
        ["no row in the store, s", *both("rows_gone_s")],
        ["done: looked for everywhere, and in the files, s", *both("done_s")],
    ]
    return "\n\n".join(
        [
            table([f"{len(erased)} of {result['customers']:,} customers, one after the other", "p50", "worst"], rows),
            f"{result['events']:,} events of the mix were there, {sum(one['matched'] for one in erased)} of them erased; every other "
            f"customer had as many as before. Meanwhile {load['answered_per_second']:,.0f} events a second came in: answers "
            f"p99 {number(load['answer_p99_ms'])} ms, queryable after p50 {load['fresh_p50_ms']} ms, p99 {load['fresh_p99_ms']} ms.",
        ]
    )  # fmt: skip
