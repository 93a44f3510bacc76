"""Recovery: how long until a fresh event is answered and queryable, through each edge, in each partition."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from tests.chaos.book import Book, Event, open_http
from tests.chaos.questions import Questions
from tests.chaos.topology import EDGES, SHARDS, Topology

RECOVERY_SECONDS = 90.0
POLL_SECONDS = 0.05


class Probe:
    """Sends its own events, which are in the book like everybody's."""

    def __init__(self, topology: Topology, book: Book, name: str, questions: Questions) -> None:
        self._topology = topology
        self._book = book
        self._name = name
        self._questions = questions
        self._pool = ThreadPoolExecutor(EDGES * SHARDS, thread_name_prefix="probe")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def recovery(self) -> float:
        """Seconds from now until every edge and partition serves again.

        Errors: AssertionError after RECOVERY_SECONDS, naming what does not.
        """
        end = time.monotonic() + RECOVERY_SECONDS
        waits: list[Future[float]] = [
            self._pool.submit(self._one, edge, partition, end)
            for edge in range(EDGES)
            for partition in range(SHARDS)
        ]
        self._topology.wait(lambda: all(w.done() for w in waits), RECOVERY_SECONDS + 30, "the probes' end")
        return max(wait.result() for wait in waits)

    def _one(self, edge: int, partition: int, end: float) -> float:
        began = time.monotonic()
        last = "no attempt"
        with open_http(self._topology.edge_urls[edge]) as http:
            while time.monotonic() < end:
                event = self._fresh(partition)
                attempt = self._book.send(event, edge, http)
                last = f"{attempt.status} {attempt.told}"
                if attempt.status == 200:
                    while time.monotonic() < end:
                        if self._questions.count(http, "event_id", event.event_id):
                            return time.monotonic() - began
                        time.sleep(POLL_SECONDS)
                    last = f"{attempt.told} is not in query results"
                time.sleep(POLL_SECONDS)
        raise AssertionError(
            f"edge {edge}, partition {partition}: no recovery within {RECOVERY_SECONDS} s: {last}"
        )

    def _fresh(self, partition: int) -> Event:
        """A new event whose id leads into `partition`."""

        def event_id(number: int) -> str:
            tries = (f"{self._name}-probe-{number}-{salt}" for salt in range(1000))
            return next(one for one in tries if self._topology.partition_of(one) == partition)

        return self._book.new(event_id)
