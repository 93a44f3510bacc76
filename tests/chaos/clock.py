"""Steps of the wall clock of one process; its monotonic clock goes on as if nothing had happened.

Our own processes read the offset through `inside`. Redis needs libfaketime, as a package of the system's.
(libfaketime in a Python process breaks `time.sleep`, which waits on the monotonic clock.)
"""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Mapping
from glob import glob
from pathlib import Path

from workers import redis_server

VARIABLE = "CHAOS_CLOCK"
PROBE_SECONDS = 3.0
_NANOSECONDS = struct.Struct("<q")


class NoClock(Exception):
    """This machine cannot do that; the message says why."""


class Clock:
    """An offset in a file, which `inside` maps into memory: a step is seen at the next look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step(0.0)

    @property
    def environ(self) -> Mapping[str, str]:
        return {VARIABLE: str(self.path)}

    def step(self, seconds: float) -> None:
        """From now on the wall clock is `seconds` off."""
        content = _NANOSECONDS.pack(int(seconds * 1e9))
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(content)


class FakeTime:
    """The same for Redis, through libfaketime; it looks once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = next(iter(sorted(glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))), "")
        self._problem = "" if self._library else "libfaketime is not installed (apt-get install faketime)"
        self._write(0.0)
        if self._library and not self._starts():
            self._library, self._problem = "", "this redis-server does not start with libfaketime"

    @property
    def environ(self) -> Mapping[str, str]:
        if not self._library:
            return {}
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def step(self, seconds: float) -> None:
        """Errors: NoClock."""
        if not self._library:
            raise NoClock(self._problem)
        self._write(seconds)

    def _starts(self) -> bool:
        """Debian's Redis 7 does not: its allocator asks for the time before the library can answer."""
        try:
            done = subprocess.run(
                [str(redis_server.find().path), "--version"],
                env={**os.environ, **self.environ},
                capture_output=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _write(self, seconds: float) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(f"{seconds:+.3f}\n")
        partial.replace(self.path)


def follow(path: Path) -> None:
    """In the process itself: `time.time` and `time.time_ns` obey the file from now on."""
    import mmap

    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), _NANOSECONDS.size, prot=mmap.PROT_READ)
    real, real_ns = time.time, time.time_ns

    def offset() -> int:
        return int(_NANOSECONDS.unpack_from(view)[0])

    time.time = lambda: real() + offset() / 1e9
    time.time_ns = lambda: real_ns() + offset()
