"""What clients sent and what they were told, attempt by attempt. Written by many threads, read at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests import plain_http

REQUEST_SECONDS = 12.0


@dataclass(frozen=True)
class Attempt:
    """One request. `status` 0: no answer. `told` is the unique_req_id of a 200 or 202, else the refusal."""

    at: float
    edge: int
    status: int
    told: str = ""
    retry_after: bool = False

    @property
    def is_kept(self) -> bool:
        """The client was told that the event is on disk."""
        return self.status in (200, 202)

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
    unseen: str = ""  # the unique_req_id that was answered as stored, and that the next query did not see

    @property
    def told(self) -> set[str]:
        """The unique_req_ids of everything that was acknowledged."""
        return {attempt.told for attempt in self.attempts if attempt.is_kept}


class Book:
    """Every event of a run, by its number."""

    def __init__(self, write_key: str = "", event_name: str = "") -> None:
        self._write_key = write_key
        self._name = event_name
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
        """How many events were acknowledged so far."""
        with self._lock:
            events = list(self.events)
        return sum(1 for event in events if event.told)

    def send(self, event: Event, edge: int, http: httpx.Client, ack: str = "") -> Attempt:
        """One attempt at one edge, and note its answer. `ack="stored"` waits until queries see the event."""
        body: dict[str, object] = {"event_name": self._name, "number": event.number, "text": "x" * 80}
        if event.event_id:
            body["event_id"] = event.event_id
        at = time.monotonic() - self.began
        try:
            answer = http.post(
                "/post",
                params={"ack": ack} if ack else {},
                json=body,
                headers={"x-eventbunker-write-key": self._write_key},
            )
        except httpx.TransportError as error:
            attempt = Attempt(at, edge, 0, type(error).__name__)
        else:
            is_kept = answer.status_code in (200, 202)
            told = answer.json()["unique_req_id"] if is_kept else answer.text[:400]
            attempt = Attempt(at, edge, answer.status_code, told, "retry-after" in answer.headers)
        event.attempts.append(attempt)
        return attempt


def open_http(url: str) -> httpx.Client:
    """A connection to one edge, as a client of ours would keep it."""
    return httpx.Client(verify=plain_http.NOBODY, base_url=url, timeout=REQUEST_SECONDS, trust_env=False)
