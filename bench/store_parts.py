"""Queries beside hand-written SQL, and bytes on disk, as parts of the benchmark."""

from __future__ import annotations

from typing import Any

from bench import queries, storage
from bench.context import Bench
from bench.markdown import number, table

QUERIES_TITLE, QUERIES_SECONDS = "Queries beside the same SQL by hand", (360.0, 30.0)
STORAGE_TITLE, STORAGE_SECONDS = "Bytes on disk", (120.0, 30.0)
MILLION = 1_000_000
# The question of the wanted table: a group by a custom field, a sum, a filter, 30 days.
CHIEF = "group by a custom string, count, sum, filter on a custom field"


def measure_queries(bench: Bench) -> dict[str, Any]:
    """Every question over a million events and over ten; quick: the chief one over fewer."""
    found = {}
    for events in (100_000,) if bench.is_quick else (MILLION, 10 * MILLION):
        bench.progress.say(f"{events:,} events")
        with storage.filled(events) as (store, _):
            answers: dict[str, Any] = {}
            failed = {}
            for name in [CHIEF] if bench.is_quick else queries.QUESTIONS:
                try:
                    answers |= queries.measure(store, name)
                except Exception as error:  # one that takes too long here costs the others nothing
                    failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                    bench.progress.say(f"{name}: {failed[name]}")
            found[str(events)] = {
                "questions": rounded(answers),
                "failed": failed,
                "peak_mb": store.peak_megabytes(),
            }
    return {"by_events": found}


def render_queries(result: dict[str, Any]) -> str:
    """Its section of the report."""
    chunks = []
    for events, found in result["by_events"].items():
        rows = [
            [
                name,
                *(number(one[f"{who}_ms"]) for who in ("ours", "by_hand")),
                number(one["ratio"]),
                *(number(one[f"{who}_cpu_ms"]) for who in ("ours", "by_hand")),
            ]
            for name, one in found["questions"].items()
        ]
        head = [
            *(f"{int(events):,} events, 30 days", "ours, ms", "by hand, ms", "ours ÷ by hand"),
            *("CPU ms of the store, ours", "by hand"),
        ]
        chunks.append(table(head, rows))
        chunks += [f"* not answered: {name} ({reason})" for name, reason in found["failed"].items()]
    peak = max(found["peak_mb"] for found in result["by_events"].values())
    chunks.append(
        "Ours is `POST /v1/query/json` up to the answer's JSON; by hand is one statement to the same store, written "
        "by somebody who knows the type of each field, which the API cannot. Both ask in turn, seven times after "
        f"one that is not counted; medians. The store had {number(peak)} MB at most."
    )
    return "\n\n".join(chunks)


def measure_storage(bench: Bench) -> dict[str, Any]:
    """A million events of 241 bytes, as the drain stores them; also with more fields in as many bytes."""
    found = {}
    for form in ("plain",) if bench.is_quick else ("plain", "rich"):
        bench.progress.say(f"{form} events")
        found[form] = rounded(storage.measure(bench.choose(MILLION, 100_000), rich=form == "rich"))
    return {"forms": found}


def render_storage(result: dict[str, Any]) -> str:
    """Its section of the report."""
    words = {"plain": "seven values, varied", "rich": "eight values and shorter names"}
    rows = []
    for form, one in result["forms"].items():
        rows.append(
            [
                f"{one['merged']['rows']:,} events of {one['body_bytes']:.0f} bytes, {words[form]}",
                *(number(one[state]["bytes_an_event"]) for state in ("merged", "written")),
                number(one["load"]["cpu_seconds_a_million"]),
            ]
        )
    head = ["Events", "bytes an event, merged", "as written", "CPU s a million, insert and merges"]
    columns = result["forms"]["plain"]["merged"]["columns"]
    largest = sorted(columns.items(), key=lambda item: -item[1])[:8]
    return "\n\n".join(
        [
            table(head, rows),
            table(
                ["Largest columns", "bytes an event"],
                [[f"`{name}`", f"{size:.2f}"] for name, size in largest],
            ),
            "The client's own bytes (`body`) are kept beside the columns; indices and marks are counted.",
        ]
    )


def rounded(value: Any) -> Any:
    """Floats with three decimals: more is noise, and makes the file of results long."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return value
