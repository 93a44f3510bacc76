"""What the figures should be, and what was reached: each row is computed from the results, none is typed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.memory import FLAT_MB, LIMIT_MB
from bench.store_parts import CHIEF

Figures = dict[str, dict[str, Any]]  # part -> its figures


@dataclass(frozen=True)
class Reached:
    """In words, and whether that is enough."""

    text: str
    is_met: bool


@dataclass(frozen=True)
class Wanted:
    """`look` answers None, or raises LookupError, where it was not measured."""

    figure: str
    wanted: str
    look: Callable[[Figures], Reached | None]


def at_least(part: str, name: str, bound: float) -> Callable[[Figures], Reached]:
    """A ratio of `part` by its name."""

    def look(figures: Figures) -> Reached:
        value = figures[part]["ratios"][name]
        return Reached(f"{value:.2f}", value >= bound)

    return look


def _beside_the_peer(figures: Figures) -> Reached:
    ratios = figures["post"]["ratios"]
    rate, p99 = ratios["uvicorn ÷ peer"], ratios["uvicorn ÷ peer, p99"]
    return Reached(f"{rate:.2f}, p99 {p99:.2f}", rate >= 1.1 and p99 <= 0.5)


def _fresh(figures: Figures) -> Reached:
    level = next(one for one in figures["fresh"]["levels"] if one["rate"] == 2000)
    p50, p99 = level["fresh_p50_ms"], level["fresh_p99_ms"]
    kept = level["answered_per_second"] >= 0.98 * level["rate"]
    note = "" if kept else f" (at {level['answered_per_second']:,.0f}/s)"
    return Reached(f"p50 {p50} ms, p99 {p99} ms{note}", p50 < 250 and p99 < 1000 and kept)


def _query(figures: Figures) -> Reached:
    one = figures["queries"]["by_events"]["10000000"]["questions"][CHIEF]
    return Reached(
        f"{one['ratio']:.2f}, {one['ours_ms']:.0f} ms", one["ratio"] <= 1.1 and one["ours_ms"] < 1000
    )


def _storage(figures: Figures) -> Reached:
    one = figures["storage"]["forms"]["plain"]
    merged, written = (one[state]["bytes_an_event"] for state in ("merged", "written"))
    return Reached(f"{merged:.1f} merged, {written:.1f} as written", merged < 60)


def _memory(figures: Figures) -> Reached:
    edges = figures["memory"]["edges"]
    words = [
        f"{engine} {one['peak_rss_mb']:.0f} MB at most, {one['growth_mb']:+.1f} in the second half"
        for engine, one in edges.items()
    ]
    is_met = all(one["peak_rss_mb"] < LIMIT_MB and one["growth_mb"] <= FLAT_MB for one in edges.values())
    return Reached("; ".join(words), is_met)


WANTED = [
    Wanted(
        "Hypercorn: `/post` durable ÷ the floor under the same server",
        "≥ 0.95",
        at_least("post", "hypercorn ÷ floor", 0.95),
    ),
    Wanted(
        "uvicorn: `/post` durable ÷ the floor under the same server",
        "≥ 0.70",
        at_least("post", "uvicorn ÷ floor", 0.70),
    ),
    Wanted(
        "uvicorn: `/post` durable ÷ Fastify peer durable, one core each",
        "≥ 1.1, p99 ≤ 0.5 of the peer's",
        _beside_the_peer,
    ),
    Wanted(
        "batch of 100, full validation, uvicorn: events/s ÷ peer",
        "≥ 1.4",
        at_least("batch", "uvicorn ÷ peer @ 100 identical", 1.4),
    ),
    Wanted(
        "batch of 100, full validation, Hypercorn: events/s ÷ peer",
        "≥ 0.8",
        at_least("batch", "hypercorn ÷ peer @ 100 identical", 0.8),
    ),
    Wanted(
        "drain, end to end from stream to acknowledged ÷ the engine loading the same rows in the same inserts",
        "≥ 0.85",
        at_least("drain", "single", 0.85),
    ),
    Wanted(
        "freshness at 2,000 events/s sustained on this machine",
        "p50 < 250 ms, p99 < 1 s",
        _fresh,
    ),
    Wanted(
        "query over 10 M events (group by a custom field, sum, filter, 30 days) ÷ the same SQL by hand",
        "≤ 1.1, and < 1 s",
        _query,
    ),
    Wanted("memory of an edge process after 1 M requests", f"< {LIMIT_MB:.0f} MB and flat", _memory),
    Wanted(
        "bytes on disk per event of 241 bytes, varied values, the client's own bytes kept", "< 60", _storage
    ),
]


def rows(figures: Figures) -> list[tuple[str, str, str, str]]:
    """Figure, wanted, reached, met or not."""
    found = []
    for one in WANTED:
        try:
            reached = one.look(figures)
        except (LookupError, StopIteration):
            reached = None
        if reached is None:
            found.append((one.figure, one.wanted, "not measured", "–"))
        else:
            found.append((one.figure, one.wanted, reached.text, "met" if reached.is_met else "**not met**"))
    return found
