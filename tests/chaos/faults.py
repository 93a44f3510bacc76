"""What each kind of fault does to the topology, and how it is taken back. Both ends return a note, or "".

A fault that this machine does not permit raises NoDisk, NoClock or NoTrace, with the reason.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from tests.chaos.link import Mood
from tests.chaos.schedule import DRAINS, EDGES, EVERYTHING, Planned
from tests.chaos.topology import Topology
from tests.chaos.trace import KillAtRename

CODES = (241, 252, 76, 243, 999)  # memory, too many parts, cannot open file, no space, keeper
SPARE_BYTES = 65_536  # of Redis's memory, when it is full
LONGEST_STEP_SECONDS = {"redis": 60.0}  # leases are times of Redis's clock
STEP_SECONDS = 7200.0
HEAL_SECONDS = 10.0
ALL = (*EDGES, *DRAINS, "store", "redis")


class Fault:
    """One planned fault in one topology."""

    def __init__(self, topology: Topology, planned: Planned) -> None:
        self.planned = planned
        self.note = ""
        self._topology = topology
        self._trace: KillAtRename | None = None
        self._former_limit = 0
        self._begin, self._heal = self._actions()

    def begin(self) -> None:
        """Errors: NoDisk, NoClock, NoTrace when this machine cannot do it."""
        self._begin()

    def heal(self) -> None:
        """Take it back. The topology may need time to recover."""
        self._heal()

    def _actions(self) -> tuple[Callable[[], None], Callable[[], None]]:
        kind = self.planned.kind
        if kind.startswith("kill -9"):
            return self._kill, self._start
        if kind.startswith("pause"):
            return self._pause, self._resume
        if kind.startswith("restart"):
            return self._terminate, self._start
        if kind.startswith("full disk"):
            disk = self._topology.disks[self.planned.target.partition(" ")[0]]
            return disk.fill, disk.free
        if kind.startswith("clock"):
            return self._step_clock, self._set_clock_right
        if kind == "redis at maxmemory":
            return self._fill_memory, self._free_memory
        if kind == "engine killed before rename":
            return self._trace_renames, self._start_traced
        if kind == "edge killed while redis is away":
            return self._kill_behind_redis, self._start_behind_redis
        return self._spoil_link, self._mend_link

    def _names(self) -> tuple[str, ...]:
        return ALL if self.planned.target == EVERYTHING else (self.planned.target,)

    def _kill(self) -> None:
        for name in self._names():
            self._topology.processes[name].kill()

    def _terminate(self) -> None:
        for name in self._names():
            if self._topology.processes[name].terminate() is None:
                self.note = "did not stop, killed"

    def _start(self) -> None:
        for name in self._names():
            self._topology.processes[name].start()

    def _kill_behind_redis(self) -> None:
        """First events gather in the edge's spool, then it dies; the other edge may adopt them."""
        self._topology.processes["redis"].kill()
        self._topology.pass_time(self.planned.seconds / 2)
        self._kill()

    def _start_behind_redis(self) -> None:
        self._topology.processes["redis"].start()
        self._start()

    def _pause(self) -> None:
        self._topology.processes[self.planned.target].pause()

    def _resume(self) -> None:
        self._topology.processes[self.planned.target].resume()

    def _clock_name(self) -> str:
        return self.planned.target.removesuffix(" clock")

    def _step_clock(self) -> None:
        """A step of up to two hours, either way, small ones as likely as large ones."""
        name = self._clock_name()
        longest = LONGEST_STEP_SECONDS.get(name, STEP_SECONDS)
        amount = self.planned.amount
        step = math.copysign(math.exp(abs(amount) * math.log(longest)), amount)
        self._topology.clocks[name].step(step)
        self.note = f"{step:+.1f} s"

    def _set_clock_right(self) -> None:
        self._topology.clocks[self._clock_name()].step(0)

    def _fill_memory(self) -> None:
        with contextlib.suppress(RedisError), self._topology.redis() as client:
            self._former_limit = int(client.config_get("maxmemory")["maxmemory"])
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + SPARE_BYTES)

    def _free_memory(self) -> None:
        """A Redis that was restarted meanwhile has its limit from its file."""
        end = time.monotonic() + HEAL_SECONDS
        while self._former_limit and time.monotonic() < end:
            with contextlib.suppress(RedisError), self._topology.redis() as client:
                client.config_set("maxmemory", self._former_limit)
                return
            self._topology.pass_time(0.1)

    def _trace_renames(self) -> None:
        store = self._topology.processes["store"]
        if not store.is_alive:
            self.note = "the store was down"
            return
        self._trace = KillAtRename(store.pid, self._topology.directory / f"strace-{self.planned.number}")
        store.wanted = False  # so that nobody restarts it before its time

    def _start_traced(self) -> None:
        if self._trace is not None:
            hit = self._trace.hit()
            self.note = f"at {hit}" if hit else "no rename came by"
        self._start()

    def _mood(self) -> Mood:
        """The end of the kind's name says it."""
        return Mood(self.planned.kind.split(" to ")[1].partition(" ")[2])

    def _spoil_link(self) -> None:
        link = self._topology.links[self.planned.target]
        link.code = CODES[int(abs(self.planned.amount) * len(CODES)) % len(CODES)]
        mood = self._mood()
        self._topology.link_control.become(link, mood)
        if mood in (Mood.ERROR, Mood.ERROR_AFTER):
            self.note = f"code {link.code}"

    def _mend_link(self) -> None:
        self._topology.link_control.become(self._topology.links[self.planned.target], Mood.GOOD)
