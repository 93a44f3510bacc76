"""The drain beside the engine that loads the same rows in the same inserts, as a part of the benchmark."""

from __future__ import annotations

from typing import Any

from bench import drain
from bench.context import Bench
from bench.markdown import number, table

TITLE = "The drain"
SECONDS = (200.0, 25.0)


def measure(bench: Bench) -> dict[str, Any]:
    """Events that came alone, and events that came in batches."""
    found: dict[str, Any] = {}
    for form in ("single",) if bench.is_quick else ("single", "batch"):
        bench.progress.say(f"events that came by /{'post' if form == 'single' else 'batch'}")
        figures = drain.measure(bench.choose(250_000, 50_000), bench.choose(3, 1), form)
        found[form] = {
            name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()
        }
    return {"forms": found, "ratios": {form: figures["share"] for form, figures in found.items()}}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    words = {"single": "/post", "batch": "/batch, 1,000 in each"}
    rows = [
        [
            words[form],
            f"{figures['events']:,} in {figures['inserts']:,}",
            *(number(figures[name]) for name in ("drain_events_s", "engine_events_s", "share")),
            *(number(figures[f"{name}_cpu_us"]) for name in ("drain", "store", "redis", "engine")),
            number(figures["drain_mb"]),
        ]
        for form, figures in result["forms"].items()
    ]
    head = [
        *("Events that came by", "events in inserts", "drain, events/s", "engine alone", "drain ÷ engine"),
        *("CPU µs an event: drain", "store", "Redis", "engine alone", "drain, MB at most"),
    ]
    return "\n\n".join(
        [
            table(head, rows),
            "The drain: from a full stream to the last acknowledgement, with Redis, plan, rows, HTTP and fsync. The "
            "engine alone: the same rows as ready blocks, in the same inserts, in its own process, with fsync. "
            "Both tables hold the same rows afterwards, which is checked by a digest.",
        ]
    )
