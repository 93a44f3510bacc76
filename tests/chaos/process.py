"""One process of the topology: started, killed, paused, restarted; it never outlives the run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.service import FROM_OUTSIDE, ROOT

RESTART_SECONDS = 0.3  # between two starts of one that dies by itself, as a supervisor would
DEATH_SECONDS = 10.0


class Process:
    """`wanted` says whether it should run; `tend` starts it again when it should and does not."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        *,
        pass_fds: tuple[int, ...] = (),
        metrics: Path | None = None,
    ) -> None:
        self.name = name
        self.wanted = False
        self.deaths: list[str] = []  # the ones that no fault asked for
        self._log = log
        # The kernel ends it when the thread that started it ends, so only the main thread starts.
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        self._environ = {**inherited, **environ}
        self._pass_fds = pass_fds
        self._metrics = metrics  # of one life: emptied before each start
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._paused = False

    @property
    def pid(self) -> int:
        """The process that ran last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it unless it runs."""
        self.wanted = True
        if self.is_alive:
            return
        self._started = time.monotonic()
        if self._metrics is not None:
            shutil.rmtree(self._metrics, ignore_errors=True)
            self._metrics.mkdir()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )

    def tend(self) -> None:
        """What a supervisor does: start it again if it died without being told to."""
        if self.wanted and not self.is_alive and time.monotonic() - self._started > RESTART_SECONDS:
            if self._process is not None:
                self.deaths.append(f"exit {self._process.returncode}")
            self.start()

    def kill(self) -> None:
        """kill -9, and whatever it started with it."""
        self.wanted = False
        if self._process is not None and self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(DEATH_SECONDS)

    def terminate(self, seconds: float = 30.0) -> int | None:
        """SIGTERM. Its exit code, None when it did not stop and had to be killed."""
        self.wanted = False
        if self._process is None or not self.is_alive:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def pause(self) -> None:
        """SIGSTOP."""
        if self.is_alive:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.is_alive:
            os.kill(self.pid, signal.SIGCONT)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
