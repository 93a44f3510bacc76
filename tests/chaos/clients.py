"""Load: threads that send numbered events to both edges, as clients with different habits do.

Some events carry an `event_id` and are sent again after anything but a 200, over both edges, and now and
then although they were answered; the others are sent once, whatever comes back.
"""

from __future__ import annotations

import random
import threading
import time

import httpx

from tests.chaos.book import Book, open_http
from tests.chaos.questions import Questions
from tests.chaos.topology import Topology

CLIENTS = 10
ID_SHARE = 0.4  # of the events carry an event_id
REPEAT_SHARE = 0.15  # of those are sent again although they were answered
STORED_SHARE = 0.1  # of the others are sent with `ack=stored`, and looked for as soon as that is answered
MAX_ATTEMPTS = 8
RETRY_SECONDS = (0.05, 0.6)
STOP_SECONDS = 180.0


class Clients:
    """A context: they run until its end."""

    def __init__(
        self, topology: Topology, book: Book, name: str, questions: Questions, *, rate: float, seed: int
    ) -> None:
        self._topology = topology
        self._book = book
        self._name = name
        self._questions = questions
        self._pause = CLIENTS / rate
        self._seed = seed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True, name=f"client {number}")
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        end = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a client does not end"

    def _run(self, number: int) -> None:
        chance = random.Random(self._seed * 1000 + number)
        https = [open_http(url) for url in self._topology.edge_urls]
        due = time.monotonic() + self._pause * chance.random()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic() - 1)  # behind by more than a second: let it go
            if chance.random() < ID_SHARE:
                self._insist(chance, https)
            else:
                self._send_once(chance, https, is_patient=chance.random() < STORED_SHARE)
        for http in https:
            http.close()

    def _insist(self, chance: random.Random, https: list[httpx.Client]) -> None:
        """An event with an id: again after anything but a 200, and now and then although there was one."""
        event = self._book.new(lambda number: f"{self._name}-{number}")
        edge = chance.randrange(len(https))
        for _ in range(MAX_ATTEMPTS):
            attempt = self._book.send(event, edge, https[edge])
            if self._stopping.is_set() or (attempt.status == 200 and chance.random() >= REPEAT_SHARE):
                return
            edge = (edge + chance.randrange(2)) % len(https)
            self._stopping.wait(chance.uniform(*RETRY_SECONDS))

    def _send_once(self, chance: random.Random, https: list[httpx.Client], *, is_patient: bool) -> None:
        """An event without an id; `is_patient` waits until it is stored."""
        event = self._book.new(lambda number: "")
        edge = chance.randrange(len(https))
        ack = "stored" if is_patient else ""
        attempt = self._book.send(event, edge, https[edge], ack)
        if not is_patient or attempt.status != 200:
            return
        if self._questions.count(https[edge], "unique_req_id", attempt.told) == 0:
            event.unseen = attempt.told
