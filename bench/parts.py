"""The parts of the benchmark, in the order in which they run and are reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import (
    batch,
    beside,
    crash,
    drain_part,
    erase,
    export_part,
    fresh,
    growth,
    import_rate,
    memory,
    post,
    questions,
    store_parts,
)
from bench.context import Bench


@dataclass(frozen=True)
class Part:
    """`measure` gives figures as JSON; `render` makes Markdown of them; `seconds` in full and quick."""

    title: str
    seconds: tuple[float, float]
    measure: Callable[[Bench], dict[str, Any]]
    render: Callable[[dict[str, Any]], str]


PARTS = {
    "post": Part(post.TITLE, post.SECONDS, post.measure, post.render),
    "batch": Part(batch.TITLE, batch.SECONDS, batch.measure, batch.render),
    "drain": Part(drain_part.TITLE, drain_part.SECONDS, drain_part.measure, drain_part.render),
    "import": Part(import_rate.TITLE, import_rate.SECONDS, import_rate.measure, import_rate.render),
    "fresh": Part(fresh.TITLE, fresh.SECONDS, fresh.measure, fresh.render),
    "queries": Part(
        store_parts.QUERIES_TITLE,
        store_parts.QUERIES_SECONDS,
        store_parts.measure_queries,
        store_parts.render_queries,
    ),
    "questions": Part(questions.TITLE, questions.SECONDS, questions.measure, questions.render),
    "beside": Part(beside.TITLE, beside.SECONDS, beside.measure, beside.render),
    "export": Part(export_part.TITLE, export_part.SECONDS, export_part.measure, export_part.render),
    "erase": Part(erase.TITLE, erase.SECONDS, erase.measure, erase.render),
    "storage": Part(
        store_parts.STORAGE_TITLE,
        store_parts.STORAGE_SECONDS,
        store_parts.measure_storage,
        store_parts.render_storage,
    ),
    "memory": Part(memory.TITLE, memory.SECONDS, memory.measure, memory.render),
    "growth": Part(growth.TITLE, growth.SECONDS, growth.measure, growth.render),
    "crash": Part(crash.TITLE, crash.SECONDS, crash.measure, crash.render),
}
QUICK = ("post", "batch", "drain", "fresh", "queries")  # what an ordinary day's change may spoil
