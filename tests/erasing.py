"""`python -m tests.erasing`: one customer among a thousand is erased while load runs and the drain is killed.

The long form of tests/test_eraser.py, on the whole service as `eventbunker dev` starts it (`make erasing`). It
says what it saw, and fails where something of the customer is seen or found, or anything of the others is not:

    no query sees the customer from the answer on, asked all the time, through two kill -9 of the drain
    when it is done, no file of the service holds the customer's name: store, Redis, spool
    a spool that comes back afterwards brings nothing back
    every event of every other customer that was answered with 200 is there once, and `verify` is clean

`--runs N` asks something else instead: tests/erasing_counts.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import redis

from app import ledger, spool_format
from app.spool_format import Frame
from app.stream import Keys, encode_record, join_group, split_group
from tests import plain_http
from tests.client import Client, equals
from tests.load import assert_verified
from tests.marked import PLAIN_CODECS, files_with
from tests.service import Service
from tests.waiting import until

CUSTOMERS = 1000
BEFORE_SECONDS, RATE, CLIENTS = 8.0, 300.0, 4
DONE_SECONDS = 300.0
DELETE_KEY = "x-eventbunker-delete-key"


class Senders:
    """Events of all customers at a steady rate; what was answered with 200 is counted by customer."""

    def __init__(self, keys: dict[str, str], customers: list[str]) -> None:
        self._keys = keys
        self._customers = customers
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.answered: list[tuple[str, int]] = []  # customer, time_recorded
        self.uncertain = 0
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        with httpx.Client(
            verify=plain_http.NOBODY, base_url=self._keys["url"], timeout=30, trust_env=False
        ) as http:
            while not self._stopping.wait(CLIENTS / RATE):
                customer = dice.choice(self._customers)
                body = {"event_name": "e", "customer_identifier": customer, "text": f"of {customer}"}
                headers = {"x-eventbunker-write-key": self._keys["write_key"]}
                try:
                    answer = http.post("/post", json=body, headers=headers)
                except httpx.TransportError:
                    self.uncertain += 1
                    continue
                with self._lock:
                    if answer.status_code == 200:
                        self.answered.append((customer, answer.json()["time_recorded"]))
                    else:
                        self.uncertain += 1


class Scene:
    """The service, its files, and the questions about it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.client = Client(service.keys)
        self.marked = f"customer-{os.urandom(16).hex()}"
        key = self.client.create_key("DELETE")["api_key"]
        self._headers = {DELETE_KEY: str(key)}

    def erase(self) -> dict[str, Any]:
        filters = [equals("customer_identifier", self.marked)]
        return self._post("/v1/delete/events", filters=filters)

    def status(self, erasure_id: str) -> dict[str, Any]:
        return self._post("/v1/delete/status", erasure_id=erasure_id)

    def seen(self, up_to: int) -> int:
        """Events of the customer, recorded up to that moment, in a query."""
        rows = self.client.rows(
            computations=[{"function": "count"}, {"function": "min", "field_name": "text"}],
            filters=[equals("customer_identifier", self.marked)],
            group_by=["unique_req_id"],
            limit=10_000,
        )
        events = self.client.events(equals("customer_identifier", self.marked)) if rows else []
        return sum(event["time_recorded"] <= up_to for event in events)

    def files(self) -> list[str]:
        return files_with(self.marked.encode(), self.service.state)

    def plain(self) -> None:
        """From now on the store's files can be searched for what is in them."""
        store = json.loads((self.service.state / "store.json").read_text())
        for statement in PLAIN_CODECS:
            answer = plain_http.post(
                store["url"],
                params={"database": "eventbunker"},
                headers={"X-ClickHouse-Key": store["password"]},
                content=statement,
            )
            assert answer.status_code == 200, answer.text

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(f"unix://{self.service.redis_socket}")

    def ledger(self, fate: str) -> int:
        with self.redis() as client:
            return int(client.hget(Keys("events", 0).ledger, fate) or 0)

    def _post(self, path: str, **request: object) -> dict[str, Any]:
        answer = self.client.http.post(path, json=request, headers=self._headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def spooled_copy(here: Scene, directory: Path) -> int:
    """What a spool holds while Redis is away, as an edge that is switched off then would keep it."""
    # The edge must know key and names.
    here.client.track(customer_identifier="somebody", number=0, text="x")
    pid = here.service.pids("redis")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(5):
            here.client.track(customer_identifier=here.marked, number=number, text=f"of {here.marked}")
        shutil.copytree(here.service.state / "spool", directory)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert files_with(here.marked.encode(), directory)
    here.service.wait_ready()
    return 5


def bring_back(here: Scene, directory: Path) -> None:
    """The disk is found again. Its group has another name, since Redis got those of this life's edge; and of its
    events those of the customer alone, since the others were stored in this life."""
    records = [
        record
        for segment in sorted(directory.rglob("*.segment"))
        for item, _ in spool_format.read(segment.read_bytes())
        if isinstance(item, Frame)
        for record in split_group(item.payload)
        if here.marked.encode() in record.body
    ]
    counts = ledger.encode_counts(ledger.count(records)).encode()
    payload = join_group([encode_record(record) for record in records])
    now_ms = time.time_ns() // 1_000_000
    frame = Frame(os.urandom(12).hex(), 0, 1, len(records), now_ms, counts, payload)
    slot = here.service.state / "spool" / "events" / "slot-200"
    slot.mkdir(parents=True)
    segment = slot / "000000000001.segment"
    segment.write_bytes(spool_format.SEGMENT_HEAD + spool_format.encode(frame))


def run(service: Service, scratch: Path) -> None:
    here = Scene(service)
    here.plain()
    customers = [f"c{number}" for number in range(CUSTOMERS - 1)] + [here.marked]
    spool = scratch / "spool"
    spooled = spooled_copy(here, spool)
    senders = Senders(service.keys, customers + [here.marked] * 20)
    time.sleep(BEFORE_SECONDS)  # not a wait for something: this is how long there was load before
    assert any("store" in one for one in here.files()), "the search finds what is there"
    assert_verified(service)

    erasure = here.erase()
    up_to = erasure["up_to"]
    print(f"erased: matched {erasure['matched']:,} while {len(senders.answered):,} events had been answered")
    looks, end = 0, time.monotonic() + 6
    while time.monotonic() < end:
        assert here.seen(up_to) == 0
        looks += 1
    for _ in range(2):
        old = service.kill("drain")
        service.wait_restarted("drain", old)
        assert here.seen(up_to) == 0
    print(f"not seen in {looks:,} looks, nor around two kill -9 of the drain")
    senders.stop()

    began = time.monotonic()

    def done() -> bool:
        assert here.seen(up_to) == 0
        return bool(here.status(erasure["erasure_id"])["state"] == "done")

    until(done, DONE_SECONDS, "the erasure to be done")
    status = here.status(erasure["erasure_id"])
    print(f"done {time.monotonic() - began:.0f} s after the load: {status['counted']}, {status['remaining']}")
    total = sum(status["counted"].values())
    print(f"ledger: {here.ledger('erased'):,} erased; counted {total:,}, matched {erasure['matched']:,}")
    assert here.ledger("erased") == total >= erasure["matched"]
    later = here.erase()  # somebody who went on sending after the erasure; now there is no name left to send
    until(lambda: here.status(later["erasure_id"])["state"] == "done", DONE_SECONDS, "the second erasure")

    print(f"files with the customer's name: {here.files()}")
    assert here.files() == []
    before = here.ledger("erased")
    bring_back(here, spool)
    late = service.state / "spool" / "events" / "slot-200"
    until(lambda: not list(late.glob("*.segment")), 60, "the late spool to be replayed")
    service.wait_ready()
    fresh = here.client.track(event_name="last", customer_identifier="c0")
    until(lambda: here.client.events(equals("unique_req_id", fresh["unique_req_id"])), 30, "what came after")
    assert here.client.events(equals("customer_identifier", here.marked)) == []
    assert here.ledger("erased") == before + spooled
    print(f"a spool with {spooled} events of the customer came back: nothing is seen of them")

    look_at_others(here, senders)
    assert_verified(service)
    print("verify: clean")


def look_at_others(here: Scene, senders: Senders) -> None:
    expected = Counter(customer for customer, _ in senders.answered if customer != here.marked)
    rows = here.client.rows(
        group_by=["customer_identifier"],
        computations=[{"function": "count"}, {"function": "count_distinct", "field_name": "unique_req_id"}],
        filters=[equals("event_name", "e")],
        limit=10_000,
    )
    found = {row["customer_identifier"]: row["count"] for row in rows}
    assert found.pop("somebody") == 1
    assert all(row["count"] == row["count_distinct_unique_req_id"] for row in rows)
    missing = {name: number for name, number in expected.items() if found.get(name, 0) < number}
    assert not missing, missing
    assert sum(found.values()) <= expected.total() + senders.uncertain
    print(
        f"{len(found):,} other customers: {sum(found.values()):,} events, all that were answered, none twice"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--runs", type=int, default=0, help="so many erasures, and what each counts")
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "service"
        directory.mkdir()
        service = Service(directory, "", {}, ("--port", "0"))
        try:
            service.wait_ready()
            if asked.runs:
                from tests import erasing_counts

                erasing_counts.run(service, asked.runs, asked.seed)
            else:
                run(service, Path(scratch))
            assert service.stop() == 0
        finally:
            service.end()


if __name__ == "__main__":
    main()
