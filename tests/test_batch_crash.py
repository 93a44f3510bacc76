"""kill -9 of edge, drain and Redis while batches of good and bad events arrive: what was accepted is stored, once."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest

from tests import plain_http
from tests.client import Client, equals, unique
from tests.load import assert_verified
from tests.service import StartService
from tests.waiting import until

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

EVENTS = 60  # in a batch; more than one in six of them is bad
CLIENTS = 4


class Sender:
    """A client that sends batches, and sends again what it does not know to be kept.

    `alike`: all of its events are good and of one look, so that a batch is kept as a whole.
    """

    def __init__(self, url: str, write_key: str, name: str, first: int, *, alike: bool) -> None:
        self._http = httpx.Client(verify=plain_http.NOBODY, base_url=url, timeout=30, trust_env=False)
        self._key = write_key
        self._name = name
        self._next = first
        self._alike = alike
        self.accepted: set[int] = set()
        self.repeated = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._http.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            numbers = list(range(self._next, self._next + EVENTS))
            self._next += EVENTS
            while numbers:
                numbers = self._send(numbers)

    def _send(self, numbers: list[int]) -> list[int]:
        """Returns those to send again."""
        batch = [
            {
                "event_name": self._name,
                "event_id": f"{self._name}-{number}",
                "n": number,
                **({"f": [1, "x"]} if self._is_bad(number) else {}),
                **({"odd": number} if not self._alike and number % 5 == 0 else {}),
            }
            for number in numbers
        ]
        try:
            answer = self._http.post("/batch", json=batch, headers={"x-eventbunker-write-key": self._key})
        except httpx.TransportError:
            self.repeated += 1
            time.sleep(0.05)
            return numbers
        if answer.status_code == 503:
            self.repeated += 1
            time.sleep(0.2)
            return numbers
        if answer.status_code == 400 and all(map(self._is_bad, numbers)):
            return []
        assert answer.status_code == 200, answer.text
        told = answer.json()
        failed = {numbers[error["index"]]: error["code"] for error in told["errors"]}
        assert told["accepted"] + told["rejected"] == len(numbers)
        assert {number for number, code in failed.items() if code == "invalid_body"} == {
            number for number in numbers if self._is_bad(number)
        }
        self.accepted.update(number for number in numbers if number not in failed)
        return [number for number in numbers if failed.get(number) == "service_unavailable"]

    def _is_bad(self, number: int) -> bool:
        return not self._alike and number % 6 == 0


def test_mixed_batches_through_crashes(start_service: StartService) -> None:
    one = start_service()
    name = unique("batches")
    senders = [
        Sender(one.url, one.keys["write_key"], name, client * 1_000_000, alike=client % 2 == 1)
        for client in range(CLIENTS)
    ]
    for sender in senders:
        sender.start()

    def more(number: int) -> None:
        target = sum(len(sender.accepted) for sender in senders) + number
        until(lambda: sum(len(sender.accepted) for sender in senders) >= target, 60, f"{number} more events")

    more(500)
    for role in ("edge", "drain", "edge", "redis", "drain"):
        old = one.kill(role, signal.SIGKILL)
        more(300)
        one.wait_restarted(role, old)
        more(300)
    for sender in senders:
        sender.stop()
    accepted = set().union(*(sender.accepted for sender in senders))
    assert all(sender.accepted for sender in senders)
    assert sum(sender.repeated for sender in senders), "no crash was felt, so nothing was tested"
    client = Client(one.keys)
    with client.http:
        until(lambda: client.count(name) >= len(accepted), 60, "all accepted events")
        found: list[int] = []
        while True:
            page = client.rows(
                filters=[equals("event_name", name)],
                order_by=[{"field_name": "unique_req_id", "direction": "ASC"}],
                limit=10_000,
                offset=len(found),
            )
            found += [row["n"] for row in page]
            if len(page) < 10_000:
                break
    assert len(found) == len(set(found)), "an event is there twice"
    assert set(found) == accepted
    assert_verified(one)
