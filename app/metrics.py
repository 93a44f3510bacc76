"""Every metric of every process: name, kind, unit, meaning. Label values come from closed sets only.

The supervisor sets PROMETHEUS_MULTIPROC_DIR, so that whichever edge process answers `/metrics` answers
for all of them and for the drain. Without it each process counts for itself.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class ManyHistogram(Histogram):
    """A histogram that takes many values at about the price of one: each number is a write to a file."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Like `observe` for each of them."""
        self._sum.inc(sum(amounts))
        for index, number in Counted(bisect_left(self._upper_bounds, one) for one in amounts).items():
            self._buckets[index].inc(number)


REQUESTS = Counter("eventbunker_http_requests", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = ManyHistogram(
    "eventbunker_http_request_duration_seconds",
    "From first byte read to answer.",
    ["route"],
    buckets=FAST_SECONDS,
)
EVENTS_ACCEPTED = Counter("eventbunker_events_accepted", "Events answered with 200 or 202.")
EVENTS_REJECTED = Counter("eventbunker_events_rejected", "Events refused, and the client told so.", ["code"])
GROUP_RECORDS = Histogram(
    "eventbunker_append_group_records", "Events that shared one append.", buckets=COUNTS
)
APPEND_RETRIES = Counter("eventbunker_append_retries", "Appends repeated under the same group id.")
SPOOLED_EVENTS = Counter("eventbunker_spooled_events", "Events kept in an edge's own spool.")
REPLAYED_EVENTS = Counter("eventbunker_replayed_events", "Events that went from a spool to Redis.")
SPOOL_DAMAGED_BYTES = Counter(
    "eventbunker_spool_damaged_bytes", "Bytes of a spool that cannot be read; they are set aside."
)
SPOOL_GROUPS = Gauge("eventbunker_spool_groups", "Groups that wait in spools.", multiprocess_mode="livesum")
SPOOL_BYTES = Gauge("eventbunker_spool_bytes", "Size of the spools.", multiprocess_mode="livesum")

STREAMS = Gauge(
    "eventbunker_open_streams", "Exports and tails that are under way.", ["kind"], multiprocess_mode="livesum"
)
EXPORTED_EVENTS = Counter("eventbunker_exported_events", "Events written into exports.")
TAIL_EVENTS = Counter("eventbunker_tail_events", "Events that were shown by tails, once for each tail.")
TAIL_DROPPED = Counter(
    "eventbunker_tail_dropped",
    "Times that events were left out of a tail, and its client told so.",
    ["reason"],
)

ROWS_STORED = Counter("eventbunker_rows_stored", "Rows that the store confirmed.")
DEAD_LETTERS = Counter("eventbunker_dead_letters", "Events set aside with their reason.")
DUPLICATES = Counter("eventbunker_duplicates", "Events that were copies, by event id, of stored ones.")
ERASED = Counter("eventbunker_erased", "Events that an erasure meant and that were therefore not stored.")
ERASURES = Gauge(
    "eventbunker_erasures", "Erasures that are not done, by how far they are.", ["stage"],
    multiprocess_mode="livemostrecent",
)  # fmt: skip
ERASURE_AGE_SECONDS = Gauge(
    "eventbunker_erasure_oldest_seconds", "Age of the oldest erasure that is not done.",
    multiprocess_mode="livemostrecent",
)  # fmt: skip
EVENT_ID_SECONDS = Histogram(
    "eventbunker_event_id_lookup_duration_seconds", "One batch's event ids looked up.", buckets=FAST_SECONDS
)
INSERT_SECONDS = Histogram("eventbunker_insert_duration_seconds", "One insert.", buckets=FAST_SECONDS)
INSERT_ROWS = Histogram("eventbunker_insert_rows", "Rows in one insert.", buckets=COUNTS)
INSERT_FAILURES = Counter("eventbunker_insert_failures", "Inserts that failed.", ["kind"])
RECOVERIES = Counter("eventbunker_recoveries", "Plans that were settled by counting what the store holds.")
FRESHNESS_SECONDS = Histogram(
    "eventbunker_freshness_seconds",
    "From append to queryable, oldest event of a batch.",
    buckets=FAST_SECONDS,
)

STREAM_ENTRIES = Gauge(
    "eventbunker_stream_entries", "Unacknowledged entries.", ["partition"], multiprocess_mode="livemostrecent"
)
STREAM_AGE_SECONDS = Gauge(
    "eventbunker_stream_oldest_seconds", "Age of the oldest unacknowledged entry.", ["partition"],
    multiprocess_mode="livemostrecent",
)  # fmt: skip
DRAIN_HALTED = Gauge(
    "eventbunker_drain_halted", "1 while a drain acknowledges nothing until somebody looks.", ["partition"],
    multiprocess_mode="livemostrecent",
)  # fmt: skip
LEDGER = Gauge(
    "eventbunker_ledger_events", "Events by fate, counted with the act itself.", ["partition", "fate"],
    multiprocess_mode="livemostrecent",
)  # fmt: skip
LEDGER_IMBALANCE = Gauge(
    "eventbunker_ledger_imbalance",
    "Appended events without a fate while the stream is empty (below 0: events with two fates). 0 is right.",
    ["partition"],
    multiprocess_mode="livemostrecent",
)
CANARY_SECONDS = Histogram(
    "eventbunker_canary_seconds", "From tracking a canary event to finding it in the store.", ["partition"],
    buckets=FAST_SECONDS,
)  # fmt: skip
CANARY_LAST_SECONDS = Gauge(
    "eventbunker_canary_last_seconds", "The same, of the last canary.", ["partition"],
    multiprocess_mode="livemostrecent",
)  # fmt: skip
CANARIES = Counter("eventbunker_canaries", "Canary events that were found to be stored as they were sent.")
CANARY_FAILURES = Counter(
    "eventbunker_canary_failures",
    "Canary events that are missing, doubled or altered, or could not be sent or looked for.",
    ["kind"],
)


class Accepted:
    """Counts the accepted requests of one route: those of one turn of the event loop together.

    All who shared an append are answered in the same turn. Counting them one by one took 3 us for each, as
    much as reading the event.
    """

    def __init__(self, route: str) -> None:
        self._requests = REQUESTS.labels(route, "200")
        self._seconds = REQUEST_SECONDS.labels(route)
        self._events = 0
        self._took: list[float] = []

    def add(self, seconds: float, events: int = 1) -> None:
        """One request was answered with 200, so long after its first byte."""
        if not self._took:
            asyncio.get_running_loop().call_soon(self._write)
        self._took.append(seconds)
        self._events += events

    def _write(self) -> None:
        took, self._took = self._took, []
        events, self._events = self._events, 0
        self._requests.inc(len(took))
        EVENTS_ACCEPTED.inc(events)
        self._seconds.observe_all(took)


def render() -> bytes:
    """The exposition text, of all processes that share PROMETHEUS_MULTIPROC_DIR."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
