"""Every process that a benchmark starts: on the cores it belongs to, in a group of its own, surely ended.

Also what the kernel tells of a process: processor time, memory, children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

PINNED = Path(__file__).with_name("pinned.py")
STOP_SECONDS = 20.0
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")

Cores = frozenset[int]


def cores() -> tuple[Cores, Cores]:
    """The core of the server that is measured, and that of wrk and Redis. The same one if there is but one."""
    usable = sorted(os.sched_getaffinity(0))
    return frozenset(usable[:1]), frozenset(usable[1:2] or usable[:1])


class Keeper:
    """Starts processes; leaving it, also by Ctrl-C, ends them all and what they started."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running.copy()):
            self.kill(process)

    def start(
        self, argv: Sequence[str], *, log: Path, on: Cores | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process that dies with this one, whatever happens; `env` is added to ours."""
        where = ",".join(map(str, sorted(on or ())))
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PINNED), where, *argv],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, and SIGKILL to its group when it takes too long."""
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        self.kill(process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the whole group. Children with a group of their own die with their parent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
        if process in self._running:
            self._running.remove(process)


def adopt_orphans() -> None:
    """From now on a process whose parent dies becomes our child, so that `end_descendants` finds it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """SIGKILL to every process that descends from this one: whatever a part left behind."""
    while pids := children(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def wait_until(condition: Callable[[], bool], seconds: float, what: str, log: Path | None = None) -> None:
    """Ask until it is true. Errors: TimeoutError, with the end of `log`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log else ""
            raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{tail}".rstrip())
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Does somebody accept connections there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Processor time that the process has used, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_seconds() -> tuple[float, float]:
    """Processor time of everything on this machine since it started, and what its host took from it."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, interrupts, soft, stolen = (int(field) / _TICKS for field in fields[:8])
    return user + nice + system + interrupts + soft, stolen


def reaped_seconds() -> float:
    """Processor time of this process, and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def memory_mb(pid: int) -> dict[str, float]:
    """`pss`: what it has now, shared pages divided among those who share them; `rss`; `peak` of the rss."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "pss": _kilobytes(rollup, "Pss:") / 1024,
        "rss": _kilobytes(status, "VmRSS:") / 1024,
        "peak": _kilobytes(status, "VmHWM:") / 1024,
    }


def _kilobytes(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def children(pid: int) -> list[int]:
    """The processes that it has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
