"""What every part is given: a directory, the keeper of processes, how thorough to be, and a voice."""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import Cores, Keeper, cores


class Skip(Exception):
    """A part that cannot run here; the message says what to install."""


@dataclass
class Progress:
    """Says on stderr what is going on and about how long the rest takes."""

    planned: dict[str, float]  # part -> seconds, in their order
    part: str = ""
    began: float = field(default_factory=time.monotonic)

    def start(self, part: str) -> None:
        self.part, self.began = part, time.monotonic()
        self.say("begins")

    def say(self, text: str) -> None:
        """One line, at once."""
        print(f"[{self._left()} left] {self.part}: {text}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        names = list(self.planned)
        after = names[names.index(self.part) + 1 :] if self.part in names else names
        own = self.planned.get(self.part, 0.0) - (time.monotonic() - self.began)
        seconds = max(0.0, own) + sum(self.planned[name] for name in after)
        return f"{int(seconds // 60)}:{int(seconds % 60):02}"


class Bench:
    """One run of the benchmark."""

    def __init__(
        self, work: Path, sockets: Path, keeper: Keeper, progress: Progress, *, is_quick: bool
    ) -> None:
        self.work = work
        self._sockets = sockets
        self.keeper = keeper
        self.progress = progress
        self.is_quick = is_quick
        self.server_core, self.load_core = cores()
        self._numbers = itertools.count(1)

    def choose(self, full: int, quick: int) -> int:
        """How many, or how long."""
        return quick if self.is_quick else full

    def directory(self, name: str) -> Path:
        """A new one, on the disk, not in memory."""
        path = self.work / f"{next(self._numbers):03}-{name}"
        path.mkdir()
        return path

    def socket(self) -> Path:
        """A path short enough for the kernel, wherever the checkout is."""
        return self._sockets / f"{next(self._numbers)}"

    @property
    def both_cores(self) -> Cores:
        return self.server_core | self.load_core
