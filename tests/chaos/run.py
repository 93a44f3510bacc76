"""One chaos run: start everything, load it, do the faults in their order, mend, count, and say so."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from redis.exceptions import RedisError

from tests.chaos.book import Book, open_http
from tests.chaos.clients import Clients
from tests.chaos.clock import NoClock
from tests.chaos.disk import NoDisk, own_mounts
from tests.chaos.faults import Fault
from tests.chaos.probe import Probe
from tests.chaos.questions import Questions
from tests.chaos.report import Done, Report, line
from tests.chaos.schedule import Planned, rounds
from tests.chaos.topology import Topology
from tests.chaos.trace import NoTrace
from tests.chaos.verdict import Row, judge
from tests.client import unique
from tests.service import COMMAND

EMPTY_SECONDS = 120.0
ALL_STORED_SECONDS = 60.0
RECEIPTS = 200
CALM_SECONDS = 0.5  # between two rounds

Say = Callable[[str], None]


def run(seed: int, faults: list[Planned], *, rate: float, say: Say) -> Report:
    """Returns the report; `say` gets a line for each thing that happens."""
    report = Report(seed)
    began = time.monotonic()
    refusal = own_mounts()
    if refusal:
        say(f"no small disks: {refusal}")
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as directory:
        with Topology(Path(directory), no_mounts=refusal) as topology:
            _Run(topology, report, rate, say).all(faults)
        if not report.is_good:
            for process in topology.processes.values():
                say(f"--- the last words of {process.name}\n{process.last_words()}")
            kept = tempfile.mkdtemp(prefix=f"chaos-{seed}-logs-")
            for log in Path(directory).glob("*.log"):
                shutil.copy(log, kept)
            say(f"the logs: {kept}")
    report.seconds = time.monotonic() - began
    return report


class _Run:
    def __init__(self, topology: Topology, report: Report, rate: float, say: Say) -> None:
        self._topology = topology
        self._report = report
        self._rate = rate
        self._say = say
        self._name = unique("chaos")
        self._book = Book(topology.write_key, self._name)
        self._chance = random.Random(report.seed)
        self._questions = Questions(topology.query_key, topology.write_key, self._name)
        self._probe = Probe(topology, self._book, self._name, self._questions)

    def all(self, faults: list[Planned]) -> None:
        """The whole run. What fails is in the report."""
        report, topology = self._report, self._topology
        self._note(lambda: self._break_things(faults))
        self._probe.close()
        self._look_at_deaths()
        self._note(self._wait_until_empty)
        for check in (self._compare, self._check_dead_letters, self._check_receipts, self._verify):
            self._note(check)
        report.failures += topology.stop()

    def _look_at_deaths(self) -> None:
        """Redis ends itself when its disk is full, and cannot start before there is room. Ours must not."""
        for process in self._topology.processes.values():
            if process.deaths:
                words = f"{process.name} died by itself: {', '.join(process.deaths)}"
                self._say(words)
                if process.name.startswith(("edge", "drain")):
                    self._report.failures.append(words)

    def _note(self, part: Callable[[], None]) -> None:
        try:
            part()
        except (AssertionError, httpx.HTTPError, RedisError) as error:
            self._report.failures.append(f"{type(error).__name__}: {error}")

    def _break_things(self, faults: list[Planned]) -> None:
        self._probe.recovery()  # everything works before anything is broken
        topology, seed = self._topology, self._report.seed
        with Clients(topology, self._book, self._name, self._questions, rate=self._rate, seed=seed):
            for together in rounds(faults):
                self._topology.pass_time(CALM_SECONDS)
                self._do(together)
            self._topology.pass_time(CALM_SECONDS)

    def _do(self, together: list[Planned]) -> None:
        """One round: begin each fault at its time, heal each at its time, measure the recovery."""
        began = time.monotonic()
        agenda = []
        done: dict[int, Done] = {}
        for planned in together:
            start = planned.lag if planned.overlaps else 0.0
            fault = Fault(self._topology, planned)
            agenda += [(start, fault, fault.begin), (start + planned.seconds, fault, fault.heal)]
            at = began - self._book.began + start
            done[planned.number] = Done(planned, at, shared=len(together) > 1)
        for due, fault, action in sorted(agenda, key=lambda item: item[0]):
            self._topology.pass_time(max(0.0, began + due - time.monotonic()))
            entry = done[fault.planned.number]
            if entry.skipped:
                continue
            try:
                action()
                entry.note = fault.note
            except (NoDisk, NoClock, NoTrace) as error:
                entry.skipped = str(error)
        recovery = self._probe.recovery()
        for entry in done.values():
            entry.recovery = None if entry.skipped else recovery
            self._report.faults.append(entry)
            self._say(line(entry))

    def _wait_until_empty(self) -> None:
        """Streams and spools are empty, plans done, and every acknowledged event can be seen."""

        def is_drained() -> bool:
            with self._topology.redis() as client:
                return not self._topology.spooled() and not any(
                    client.xlen(one.entries) or client.exists(one.plan) for one in self._topology.partitions()
                )

        self._topology.wait(is_drained, EMPTY_SECONDS, "empty spools and streams")
        wanted = {event.number for event in self._book.events if event.told}
        self._topology.wait(
            lambda: wanted <= {row.number for row in self._rows()},
            ALL_STORED_SECONDS,
            "every acknowledged event in query results",
        )

    def _rows(self) -> list[Row]:
        """Everything that queries return."""
        with open_http(self._topology.edge_urls[0]) as http:
            return [
                Row(int(str(e["number"])), str(e["unique_req_id"]), str(e.get("event_id") or ""))
                for e in self._questions.events(http)
            ]

    def _compare(self) -> None:
        self._report.verdict = judge(self._book, self._rows())

    def _check_dead_letters(self) -> None:
        with self._topology.redis() as client:
            self._report.dead = sum(int(client.xlen(one.dead)) for one in self._topology.partitions())
        assert not self._report.dead, f"{self._report.dead} dead letters, and no event was bad"

    def _verify(self) -> None:
        done = self._topology.run("-c", COMMAND, "verify")
        assert done.returncode == 0, f"eventbunker verify: {done.stdout}{done.stderr}"

    def _check_receipts(self) -> None:
        """Some of the acknowledged events, chosen by chance: their receipts say what became of them."""
        told = [(event, one) for event in self._book.events for one in event.told]
        with open_http(self._topology.edge_urls[-1]) as http:
            for event, one in self._chance.sample(told, min(RECEIPTS, len(told))):
                receipt = self._questions.receipt(http, one)
                allowed = ("stored", "duplicate") if event.event_id else ("stored",)
                assert receipt["state"] in allowed, f"{one} of {event}: {receipt}"
