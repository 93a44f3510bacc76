"""What clients sent and what they were told, attempt by attempt. Written by many threads, read at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

REQUEST_SECONDS = 12.0


@dataclass(frozen=True)
class Attempt:
    """One request. `status` 0: no answer. `told` is the unique_req_id of a 200, else the refusal's detail."""

    at: float
    edge: int
    status: int
    told: str = ""
    retry_after: bool = False

    @property
    def may_be_kept(self) -> bool:
        """Without an answer, or with one that says so, the event may be stored."""
        return self.status == 0 or (self.status == 503 and "nothing was kept" not in self.told.lower())


@dataclass
class Event:
    """One event: with an id of its client's it may be sent often, without one it is sent once."""

    number: int
    event_id: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def told(self) -> set[str]:
        """The unique_req_ids that were answered with a 200."""
        return {attempt.told for attempt in self.attempts if attempt.status == 200}


class Book:
    """Every event of a run, by its number."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.began = time.monotonic()
        self._lock = threading.Lock()

    def new(self, event_id: Callable[[int], str]) -> Event:
        """The next event; `event_id` makes its id from its number."""
        with self._lock:
            event = Event(len(self.events), event_id(len(self.events)))
            self.events.append(event)
            return event

    def acknowledged(self) -> int:
        """How many events were answered with a 200 so far."""
        with self._lock:
            events = list(self.events)
        return sum(1 for event in events if event.told)

    def send(self, event: Event, edge: int, http: httpx.Client, write_key: str, name: str) -> Attempt:
        """One attempt at one edge, and note its answer."""
        body: dict[str, object] = {"event_name": name, "number": event.number, "text": "x" * 80}
        if event.event_id:
            body["event_id"] = event.event_id
        at = time.monotonic() - self.began
        try:
            answer = http.post("/post", json=body, headers={"x-eventbunker-write-key": write_key})
        except httpx.TransportError as error:
            attempt = Attempt(at, edge, 0, type(error).__name__)
        else:
            told = answer.json()["unique_req_id"] if answer.status_code == 200 else answer.text[:400]
            attempt = Attempt(at, edge, answer.status_code, told, "retry-after" in answer.headers)
        event.attempts.append(attempt)
        return attempt


def open_http(url: str) -> httpx.Client:
    """A connection to one edge, as a client of ours would keep it."""
    return httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)
