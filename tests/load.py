"""Steady load from several clients, and the check that what they were told is what queries return.

Used by the crash tests and by `python -m tests.load`, which runs the longer form against a service that is
already running. Every event carries a number of its own, so a lost or doubled one has a name.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests import plain_http
from tests.client import Client, equals
from tests.service import Service
from tests.waiting import until

PAGE = 10_000


@dataclass
class Told:
    """What the clients were told: numbers by the answer that they got."""

    acknowledged: dict[int, str] = field(default_factory=dict)  # number -> unique_req_id
    refused: Counter[int] = field(default_factory=Counter)  # by status; 503 may or may not have been kept
    said: Counter[str] = field(default_factory=Counter)  # with each refusal; what names its cause
    unanswered: int = 0  # the connection broke: the client knows nothing
    slowest_seconds: float = 0.0  # from sending to a 200
    longest_gap_seconds: float = 0.0  # between two 200s: how long the service was away


class Load:
    """`rate` events a second from `clients` threads until `stop`."""

    def __init__(
        self, urls: list[str], write_key: str, event_name: str, rate: float, clients: int = 8
    ) -> None:
        self._urls = urls
        self._write_key = write_key
        self._event_name = event_name
        self._pause = clients / rate
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._last_ok = time.monotonic()
        self.told = Told()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, more: int, deadline_seconds: float = 60) -> None:
        """Until `more` further events were acknowledged."""
        target = len(self.told.acknowledged) + more
        until(
            lambda: len(self.told.acknowledged) >= target,
            deadline_seconds,
            f"{more} more acknowledged events",
        )

    def _run(self, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        due = time.monotonic() + self._pause * number / len(self._threads)
        with httpx.Client(verify=plain_http.NOBODY, base_url=url, timeout=30, trust_env=False) as http:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                due = max(due + self._pause, time.monotonic() - 1)  # behind by more than a second: let it go
                self._send(http, number)

    def _send(self, http: httpx.Client, client: int) -> None:
        with self._lock:
            number, self._next = self._next, self._next + 1
        body = {"event_name": self._event_name, "number": number, "client": client, "text": "x" * 100}
        began = time.monotonic()
        try:
            answer = http.post("/post", json=body, headers={"x-eventbunker-write-key": self._write_key})
        except httpx.TransportError:
            with self._lock:
                self.told.unanswered += 1
            return
        with self._lock:
            if answer.status_code != 200:
                self.told.refused[answer.status_code] += 1
                self.told.said[_detail(answer)] += 1
                return
            now = time.monotonic()
            self.told.slowest_seconds = max(self.told.slowest_seconds, now - began)
            self.told.longest_gap_seconds = max(self.told.longest_gap_seconds, now - self._last_ok)
            self._last_ok = now
            self.told.acknowledged[number] = answer.json()["unique_req_id"]


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]  # of a load balancer


def stored(client: Client, event_name: str) -> Counter[tuple[int, str]]:
    """Every (number, unique_req_id) that queries return, with how often."""
    found: Counter[tuple[int, str]] = Counter()
    while True:
        page = client.rows(
            filters=[equals("event_name", event_name)],
            order_by=[{"field_name": "unique_req_id", "direction": "ASC"}],
            limit=PAGE,
            offset=found.total(),
        )
        found.update((event["number"], event["unique_req_id"]) for event in page)
        if len(page) < PAGE:
            return found


def check(
    client: Client,
    event_name: str,
    told: Told,
    deadline_seconds: float = 60,
    *,
    service: Service | None = None,
) -> Counter[tuple[int, str]]:
    """Every 200 is in query results exactly once, and nothing else is there twice.

    `service`: its ledger must say the same, of all projects and hours.
    """
    until(client.is_answered, deadline_seconds, "an answer of the store")  # it may have been killed just now
    until(
        lambda: client.count(event_name) >= len(told.acknowledged),
        deadline_seconds,
        "all acknowledged events",
    )
    found = stored(client, event_name)
    doubled = [key for key, times in found.items() if times > 1]
    assert not doubled, f"{len(doubled)} events are doubled, such as {doubled[:3]}"
    numbers = Counter(number for number, _ in found)
    assert max(numbers.values()) == 1, "one request became two events"
    lost = [number for number, key in told.acknowledged.items() if (number, key) not in found]
    assert not lost, f"{len(lost)} acknowledged events are lost, such as {lost[:3]}"
    # What was not acknowledged may be there (the answer was lost), but no more than was sent.
    assert found.total() <= len(told.acknowledged) + told.unanswered + told.refused[503]
    if service is not None:
        assert_verified(service)
    return found


def assert_verified(service: Service) -> None:
    """`eventbunker verify` finds no difference."""
    done = service.eventbunker("verify", "--state", str(service.state), "--wait", "20")
    assert done.returncode == 0, done.stdout + done.stderr
