"""A million events out of the running service in each format, compared with what was sent, as a part."""

from __future__ import annotations

import time
from typing import Any

import httpx

from bench import export, whole
from bench.context import Bench
from bench.markdown import number, table
from tests.client import Client
from tests.export_check import FORMATS

TITLE = "Export"
SECONDS = (240.0, 60.0)
EVENTS, QUICK_EVENTS = 1_000_000, 50_000


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, Hypercorn, defaults: tracked as batches, exported over HTTP, read back.

    Errors: AssertionError where a file is not what was sent.
    """
    directory = bench.directory("export")
    with whole.start(bench) as running:
        http = httpx.Client(base_url=running.service.url, timeout=export.HTTP_SECONDS, trust_env=False)
        client = Client(running.service.keys, http)
        bench.progress.say("events go in")
        began = time.monotonic()
        sent = export.fill(client, bench.choose(EVENTS, QUICK_EVENTS))
        filled = time.monotonic() - began
        formats = {}
        for name in FORMATS:
            bench.progress.say(name)
            file = directory / name
            before, began = running.cpu(), time.monotonic()
            with export.Peak(running.service) as peak:
                promised = export.export(client, file, name)
            took = time.monotonic() - began
            cpu = {role: round(used - before[role], 2) for role, used in running.cpu().items()}
            assert promised == sent.whole.count, f"{promised} events promised, {sent.whole.count} sent"
            sent.check(file, name)
            formats[name] = {
                "seconds": round(took, 2),
                "bytes": file.stat().st_size,
                "cpu_seconds": cpu,
                "memory": {role: [peak.before[role], peak.most[role]] for role in peak.most},
            }
            file.unlink()
        http.close()
    return {"events": sent.whole.count, "fill_seconds": round(filled, 1), "formats": formats}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    events = result["events"]
    rows = [
        [
            f"{events:,} events as {name}",
            number(one["seconds"]),
            f"{events / one['seconds']:,.0f}",
            number(one["bytes"] / 1e6),
            *(number(one["cpu_seconds"][role]) for role in ("edge", "store")),
            *(f"{one['memory'][role][0]:,} → {one['memory'][role][1]:,}" for role in ("edge", "store")),
        ]
        for name, one in result["formats"].items()
    ]
    head = [
        *("Export", "seconds", "events/s", "MB"),
        *("CPU s, edge", "CPU s, store", "edge, MB", "store, MB"),
    ]
    return "\n\n".join(
        [
            table(head, rows),
            "Over HTTP into a file; memory is the resident set before and at most. Each file was read with the standard "
            "library or pyarrow, and held every event once with each value as it was sent: the figures would not stand "
            "here otherwise.",
        ]
    )
