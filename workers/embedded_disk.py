"""The disk under the data directory: before it is full, nothing more is written; if it is, the process ends.

Why it ends (chdb-core 26.9, `tests/test_embedded_disk.py`): the engine does not notice that a write found no
room. It gives the empty part its name and answers OK. A merge that meets a full disk replaces good parts by
an empty one in the same way. The next start mends both: it sets empty parts aside and finds the good ones,
which stay for eight minutes. So an insert that may have met a full disk is never answered, and the drain,
which got no answer, counts what is there once the store is back. Redis does the same with its own file.

That is the last resort. Long before, `keep_free_bytes` makes the engine itself refuse inserts and merges.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import structlog

MIB = 1024 * 1024
FULL_BYTES = 8 * MIB  # less than this is full
FULL_FILES = 100
LOOK_SECONDS = 0.01  # a disk that is full for a shorter time than this may be missed
WAIT_SECONDS = 0.2
SAY_SECONDS = 10.0
EXIT_FULL = 75

log = structlog.get_logger()


def keep_free_bytes(path: Path) -> int:
    """What the engine must leave free for others: 2 % of the disk, at least 32 MiB, at most 1 GiB."""
    stat = os.statvfs(path)
    return min(1024 * MIB, max(32 * MIB, stat.f_blocks * stat.f_frsize // 50))


class Room:
    """The free space around `path`, which must exist."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def wait(self) -> None:
        """Return once there is room to open the engine; says so while there is none."""
        say_at = 0.0
        while self._is_full(2):
            if time.monotonic() > say_at:
                log.error("the disk is full: waiting for room", path=str(self._path))
                say_at = time.monotonic() + SAY_SECONDS
            time.sleep(WAIT_SECONDS)

    def watch(self) -> None:
        """From now on, `check` all the time, in a thread."""

        def look() -> None:
            while True:
                self.check()
                time.sleep(LOOK_SECONDS)

        threading.Thread(target=look, daemon=True, name="disk").start()

    def check(self) -> None:
        """End the process at once if the disk is full."""
        if self._is_full():
            log.error(
                "the disk is full: ending before anything half-written is answered", path=str(self._path)
            )
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_FULL)

    def _is_full(self, times: int = 1) -> bool:
        try:
            stat = os.statvfs(self._path)
        except OSError:
            return False
        too_few_files = stat.f_files > 0 and stat.f_favail < FULL_FILES * times
        return stat.f_bavail * stat.f_frsize < FULL_BYTES * times or too_few_files
