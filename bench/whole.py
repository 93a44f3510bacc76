"""The whole service, as `make run-edge` starts it, under a steady rate; what it used and when events were there."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.context import Bench
from bench.process import cpu_seconds, memory_mb
from bench.stats import centile, delays, median
from bench.subjects import has_engine
from tests.client import Client, equals, unique
from tests.service import ROOT, Service

ROLES = ("edge", "drain", "store", "redis")
POLL_SECONDS = 0.02
LOOK_SECONDS = 0.03  # longer than a look usually takes, so that what slows looks does not make them rarer
SEEN_SECONDS = 60.0  # for the last event to be queryable
MARGIN_SECONDS = 60.0


@dataclass
class Whole:
    """A running service and a client of it."""

    service: Service
    client: Client

    def pid(self, role: str) -> int:
        return self.service.pids(role)[0]

    def cpu(self) -> dict[str, float]:
        """Seconds that each part has used."""
        return {role: sum(cpu_seconds(pid) for pid in self.service.pids(role)) for role in ROLES}

    def memory(self) -> dict[str, float]:
        """Proportional set size of each part, in MB."""
        sizes: dict[str, float] = {}
        for pid in self.service.alive():
            role = next((role for role in ROLES if pid in self.service.pids(role)), "supervisor")
            sizes[role] = round(sizes.get(role, 0.0) + memory_mb(pid)["pss"], 1)
        return {**sizes, "together": round(sum(sizes.values()), 1)}


@contextmanager
def start(bench: Bench, engine: str = "hypercorn") -> Iterator[Whole]:
    """A service of its own, on all cores, with its defaults."""
    deploy = f'[server]\nengine = "{engine}"\n' if has_engine() else ""
    service = Service(bench.directory("whole"), deploy, {}, ("--with-parent", "--port", "0"))
    try:
        service.wait_ready()
        client = Client(service.keys)
        try:
            yield Whole(service, client)
        finally:
            client.http.close()
    finally:
        service.end()


class Look(NamedTuple):
    """One question and its answer, on the monotonic clock."""

    asked: float
    answered: float
    seen: int


class Watch:
    """Asks the query API again and again how many events of `name` it sees, in a thread of its own."""

    def __init__(self, keys: dict[str, str], name: str, every_seconds: float = LOOK_SECONDS) -> None:
        self._client = Client(keys)
        self._every_seconds = every_seconds
        self._name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks: list[Look] = []
        self.failure = ""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        self._client.http.close()

    def count(self) -> int:
        return self.looks[-1].seen if self.looks else 0

    def resolution_ms(self) -> float:
        """The usual time between two answers."""
        times = [look.answered for look in self.looks]
        return round(median([b - a for a, b in itertools.pairwise(times)] or [0.0]) * 1000, 1)

    def look(self) -> int:
        """How many there are. Errors: RuntimeError."""
        answer = self._client.ask(
            time_period="minus_60_minutes",
            computations=[{"function": "count"}],
            filters=[equals("event_name", self._name)],
        )
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        data = answer.json()["data"]
        return int(data[0]["count"]) if data else 0

    def _run(self) -> None:
        asked = time.monotonic()
        while not self._stopping.wait(max(0.0, asked + self._every_seconds - time.monotonic())):
            asked = time.monotonic()
            try:
                count = self.look()
            except RuntimeError as error:
                self.failure = str(error)
                continue
            self.looks.append(Look(asked, time.monotonic(), count))


def sustain(
    bench: Bench, whole: Whole, rate: int, seconds: float, watching: Callable[[str], Watch] | None = None
) -> dict[str, Any]:
    """`rate` events a second: answers, freshness, processor time of each part.

    `watching`: who looks for the events of a name, instead of the query API's client.
    """
    name = unique("sustained")
    output = bench.directory("moments") / "moments"
    log = output.with_suffix(".log")
    with watching(name) if watching else Watch(whole.service.keys, name) as watch:
        before, began = whole.cpu(), time.monotonic()
        sender = bench.keeper.start(
            [
                sys.executable,
                "-m",
                "bench.sender",
                whole.service.url,
                str(rate),
                str(seconds),
                name,
                str(output),
            ],
            log=log,
            env={"KEY": whole.service.keys["write_key"], "PYTHONPATH": str(ROOT)},
        )
        code = sender.wait(seconds + MARGIN_SECONDS)
        bench.keeper.kill(sender)
        if code:
            raise RuntimeError(f"the sender ended with {code}: {log.read_text()[-500:]}")
        told = json.loads(log.read_text().splitlines()[-1])
        both = array("d", output.read_bytes())
        moments, waits = both[: len(both) // 2], both[len(both) // 2 :]
        end = time.monotonic() + SEEN_SECONDS
        while watch.count() < len(moments) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        cpu = {role: used - before[role] for role, used in whole.cpu().items()}
        took = time.monotonic() - began
    if watch.count() < len(moments):
        raise RuntimeError(
            f"{len(moments)} events were answered, {watch.count()} are queryable {watch.failure}".rstrip()
        )
    asked = delays(moments, [(look.asked, look.seen) for look in watch.looks])
    seen = delays(moments, [(look.answered, look.seen) for look in watch.looks])
    return {
        "rate": rate,
        "answered": len(moments),
        "answered_per_second": round(len(moments) / (moments[-1] - moments[0]), 1),
        "refused": told["refused"],
        "broken": told["broken"],
        "answer_p50_ms": round(centile(waits, 50) * 1000, 2),
        "answer_p99_ms": round(centile(waits, 99) * 1000, 2),
        "queryable": watch.count(),
        **_centiles("asked", asked),
        **_centiles("fresh", seen),
        "resolution_ms": watch.resolution_ms(),
        "cpu_us_per_event": {role: round(used / len(moments) * 1e6, 1) for role, used in cpu.items()},
        "cores_busy": round(sum(cpu.values()) / took, 2),
    }


def _centiles(name: str, seconds: Sequence[float]) -> dict[str, int]:
    """`fresh`: until an answer had the event, so what is told is never too good. `asked`: until a question
    was asked whose answer had it, so how long that answer took says nothing."""
    found = {"p50": centile(seconds, 50), "p99": centile(seconds, 99), "worst": max(seconds)}
    return {f"{name}_{which}_ms": round(value * 1000) for which, value in found.items()}
