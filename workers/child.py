"""One child process of the supervisor: start, notice its death, restart with backoff, stop in bounded time.

Owns the operating system's part: process groups, the death signal, exit codes. It knows nothing of what the
child does; `workers.supervisor` decides when. Next: `workers.supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
HEALTHY_SECONDS = 10.0  # a child that lived this long has not failed for its configuration
WATCH_SECONDS = 1.0
FULL_DISK_BYTES = 32 * 1024 * 1024
FINISH = signal.SIGUSR1  # after `take_leave`; a child that does not listen yet ends without a word
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


@dataclass(frozen=True)
class Role:
    """What to run and how to end it. Secrets belong into `environment`: everybody can read an argv."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # added to the supervisor's
    ready: Callable[[], Awaitable[bool]] | None = None  # one short attempt; None: ready once started
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0  # after that signal, before SIGKILL
    death_signal: signal.Signals = signal.SIGKILL  # what the kernel sends it when the supervisor is killed
    pass_fds: tuple[int, ...] = ()
    socket: Path | None = None  # where it listens, if that is a file that somebody may remove
    log_path: Path | None = None  # stdout and stderr go here instead of to ours
    on_exit: Callable[[int], None] | None = None  # told the pid


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process `number` when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number))


def _tied_to(parent: int, number: signal.Signals) -> Callable[[], None]:
    """Runs in the child between fork and exec. Loads the library before, where it may still fail."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # `stty tostop`: its first line of log would halt it
        if os.getppid() != parent:  # the parent died before the wish was heard
            os._exit(1)

    return before_exec


class Child:
    """Keeps one role running until it is stopped. `reap` must be called on every SIGCHLD.

    `once`: it is expected to end, and is not started again.
    """

    def __init__(self, role: Role, *, once: bool = False) -> None:
        self.role = role
        self.once = once
        self.deaths = 0  # unexpected ones
        self.last_exit = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_ready = False

    @property
    def pid(self) -> int | None:
        """The running process, None between two lives."""
        return self._process.pid if self._process and not self._exited.is_set() else None

    def start(self) -> None:
        """Begin; returns at once. Errors: OSError when the program cannot be executed."""
        self._spawn()
        self._task = asyncio.create_task(self._keep_alive())

    def note_ready(self) -> None:
        """It answered: a socket that is missing from now on was removed, however short it was seen."""
        self._was_ready = True

    def reap(self) -> None:
        """Notice whether the process has ended."""
        if self._process is not None and not self._exited.is_set() and self._process.poll() is not None:
            self._exited.set()

    async def ended(self) -> None:
        """Until nothing will be started again; `last_exit` then says how it ended."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def take_leave(self) -> None:
        """SIGTERM, without waiting: it will end, and is not started again. `stop` must follow."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        """The role's signal, a bounded wait, SIGKILL. Never raises; afterwards nothing is left."""
        self._stopping.set()
        if self.pid is not None:
            self._signal(self.role.stop_signal)
            try:
                async with asyncio.timeout(self.role.stop_seconds):
                    await self._exited.wait()
            except TimeoutError:
                log.warning(
                    "killed: it did not stop in time", role=self.role.name, seconds=self.role.stop_seconds
                )
        self.kill()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=5)

    def kill(self) -> None:
        """SIGKILL to the process and to whatever it started."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            _kill_group(self._process.pid)

    def wait_dead(self, seconds: float) -> None:
        """Block until the process is gone, for the moment when there is no loop to wait in."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.pid is not None:
            self._process.send_signal(number)

    def _spawn(self) -> None:
        role = self.role
        self._exited = asyncio.Event()
        self._was_ready = False
        output = None
        if role.log_path is not None:
            output = os.open(role.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = subprocess.Popen(
                role.argv,
                env={**os.environ, **role.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=role.pass_fds,
                # Ctrl-C reaches the supervisor only, which stops in order. A session of its own would do as
                # well, but Linux shares the processor among sessions first (sched_autogroup): the niceness of
                # questions would count within the store alone, and they had as much of it as an edge.
                process_group=0,
                preexec_fn=_tied_to(os.getpid(), role.death_signal),  # noqa: PLW1509  (one thread only)
            )
        finally:
            if output is not None:
                os.close(output)

    async def _keep_alive(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            await self._until_exit()
            self._bury()
            if self._stopping.is_set() or self.once:
                return
            if time.monotonic() - began >= HEALTHY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self.deaths += 1
            log.warning("died, starting it again", role=self.role.name, exit=self.last_exit, delay=delay,
                        **self._last_words())  # fmt: skip
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
                    return
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            self._respawn()

    async def _until_exit(self) -> None:
        """Wait for its end; and bring that about when it lives on where nobody can reach it."""
        was_there = False
        while not self._exited.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._exited.wait()
            socket = self.role.socket
            if socket is None or self._process is None or self._exited.is_set():
                continue
            if (was_there or self._was_ready) and not socket.exists():
                log.error("its socket was removed; restarting it", role=self.role.name, socket=str(socket))
                self._process.send_signal(signal.SIGTERM)
                was_there = self._was_ready = False
            else:
                was_there = was_there or socket.exists()

    def _respawn(self) -> None:
        try:
            self._spawn()
        except OSError as error:  # the program vanished, or there are no processes to be had
            log.error("cannot be started", role=self.role.name, reason=str(error))
            self._exited.set()  # counts as a death: the delay grows

    def _bury(self) -> None:
        if self._process is None:
            return
        _kill_group(self._process.pid)  # what it started must not outlive it
        code = self._process.returncode
        self.last_exit = signal.Signals(-code).name if code in _SIGNAL_EXITS else f"code {code}"
        if self.role.on_exit is not None:
            self.role.on_exit(self._process.pid)

    def _last_words(self) -> dict[str, str]:
        if self.role.log_path is None:
            return {}
        try:
            lines = self.role.log_path.read_text(errors="replace").split("\n")
        except OSError:
            return {}
        said = [line.strip() for line in lines if line.strip()]
        words = {"last_words": said[-1][:300]} if said else {}
        free = shutil.disk_usage(self.role.log_path.parent).free
        if free < FULL_DISK_BYTES:  # the usual cause, which its last words rarely name
            words["disk"] = f"only {free} bytes are free under {self.role.log_path.parent}"
        return words


_SIGNAL_EXITS = {-int(number) for number in signal.Signals}


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
