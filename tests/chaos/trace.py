"""strace on a running process: what it asks of the system, and its end at a chosen call.

`KillAtRename` is kill -9 of the engine when its deduplication log has the token and the part has no name yet.
The engine writes the token, then renames `tmp_insert_…` to the part's name. strace ends the process as it
enters the rename, so the rename is not executed: what is left is a token without rows.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

ATTACH_SECONDS = 10.0
RENAMES = "rename,renameat,renameat2"
_RENAME = re.compile(r'rename\w*\([^"]*"(?:[^"]*/)?([^"/]+)/?", ')


class NoTrace(Exception):
    """This machine cannot do that; the message says why."""


class Trace:
    """Attached to every thread of a process, until that ends or `stop`."""

    def __init__(self, pid: int, log: Path, *options: str) -> None:
        """Errors: NoTrace."""
        if not shutil.which("strace"):
            raise NoTrace("strace is not installed (apt-get install strace)")
        self._pid = pid
        self._log = log
        self._errors = log.with_suffix(".errors")
        command = ["strace", "-f", "-qq", "-o", str(log), *options, "-p", str(pid)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stderr=errors)
        self._wait_attached()

    def stop(self) -> str:
        """Detach if it still lives. What was seen, a line for each call."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(ATTACH_SECONDS)
        return self._log.read_text(errors="replace")

    def _wait_attached(self) -> None:
        """Until every thread is traced. Errors: NoTrace."""
        end = time.monotonic() + ATTACH_SECONDS
        while not self._is_attached():
            if self._process.poll() is not None or time.monotonic() > end:
                if not os.path.exists(f"/proc/{self._pid}/task"):
                    return  # it met a rename before the last thread was seen
                self._process.kill()
                raise NoTrace(f"strace cannot attach: {self._errors.read_text().strip()}")
            time.sleep(0.01)

    def _is_attached(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            tasks = list(Path(f"/proc/{self._pid}/task").iterdir())
            return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
        return False


class KillAtRename(Trace):
    """The process dies at its next rename."""

    def __init__(self, pid: int, log: Path) -> None:
        super().__init__(pid, log, "-e", f"trace={RENAMES}", "-e", f"inject={RENAMES}:signal=KILL:when=1")

    def hit(self) -> str:
        """`stop`, and the name of the directory that kept its old one; "" when no rename came by."""
        found = [match[1] for match in _RENAME.finditer(self.stop())]
        return found[-1] if found else ""
