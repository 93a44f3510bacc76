"""100,000 posts at once, and kill -9 of every part in turn under load for a minute: what was told is what is there."""

from __future__ import annotations

import time
from typing import Any

from bench import whole
from bench.context import Bench
from bench.markdown import table
from bench.whole import ROLES, Whole
from tests.client import unique
from tests.load import Load, check

TITLE = "100,000 posts, and kill -9 for a minute"
SECONDS = (130.0, 40.0)
BURST_RATE = 50_000  # events a second: more than are answered, so that the sender waits for the service
CRASH_RATE = 300.0
SETTLED_EVENTS, BETWEEN_EVENTS = 300, 600


def measure(bench: Bench) -> dict[str, Any]:
    """Lost and doubled are found by `tests.load.check`, which fails the part when there are any."""
    with whole.start(bench) as running:
        running.client.track(event_name="first")
        posts = bench.choose(100_000, 20_000)
        bench.progress.say(f"{posts:,} posts")
        burst = whole.sustain(bench, running, BURST_RATE, posts / BURST_RATE)
        bench.progress.say("kill -9 in turn")
        killed = _kill(running, bench.choose(60, 15))
    return {"burst": burst, "crash": killed}


def _kill(running: Whole, seconds: int) -> dict[str, Any]:
    name, kills = unique("crash"), 0
    service = running.service
    end = time.monotonic() + seconds
    with Load([service.url], service.keys["write_key"], name, rate=CRASH_RATE, clients=16) as load:
        load.wait_for(SETTLED_EVENTS)
        while time.monotonic() < end:
            role = ROLES[kills % len(ROLES)]
            service.wait_restarted(role, service.kill(role))
            load.wait_for(BETWEEN_EVENTS)
            kills += 1
    told = load.told
    found = check(running.client, name, told, service=service)  # fails when one is lost or doubled
    return {
        "seconds": seconds,
        "kills": kills,
        "acknowledged": len(told.acknowledged),
        "unheard": found.total() - len(told.acknowledged),
        "broken": told.unanswered,
        "refused": sum(told.refused.values()),
        "longest_gap_seconds": round(told.longest_gap_seconds, 1),
    }


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    burst, crash = result["burst"], result["crash"]
    rows: list[tuple[str, object]] = [
        (f"{burst['answered']:,} posts over 64 connections: answers other than 200", burst["refused"]),
        ("… of them in query results", f"{burst['queryable']:,}"),
        ("… rate, with the client on the same cores", f"{burst['answered_per_second']:,.0f} a second"),
        ("… the slowest to be queryable after its 200", f"{burst['fresh_worst_ms']:,} ms"),
        (
            f"{CRASH_RATE:.0f} events/s for {crash['seconds']} s, kill -9 of edge, drain, store and Redis in turn, "
            f"{crash['kills']} times: acknowledged",
            f"{crash['acknowledged']:,}",
        ),
        ("… lost / doubled", "0 / 0"),
        ("… stored although the client never heard its 200", crash["unheard"]),
        ("… connections broken / requests refused", f"{crash['broken']} / {crash['refused']}"),
        (
            "… longest time without a 200 (the restart's pause doubles when a part dies again and again)",
            f"{crash['longest_gap_seconds']} s",
        ),
    ]
    return table(["Figure", "Value"], rows)
