"""The whole service as tests use it: `eventbunker dev`, really started, with its real children.

`service` is one for the session; `start_service` starts others with their own settings and environment.
Whatever a test does, afterwards no process of it is left: that is asserted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from tests import plain_http
from tests.waiting import until
from workers.state import State

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 60.0
COMMAND_SECONDS = 60.0
COMMAND = "from workers.cli import main; main()"  # works without an installed script
MARK = "EVENTBUNKER_TEST"  # inherited by every process of one service: how its orphans are found
FROM_OUTSIDE = (
    "REDIS_URL",
    "CLICKHOUSE_URL",
    "CLICKHOUSE_PASSWORD",
    "DEPLOY_CONFIG",
    "DEPLOY_ENV",
    "LOG_LEVEL",
)


class Service:
    """A started supervisor. Errors in waiting show its log."""

    def __init__(
        self, directory: Path, deploy: str, environ: dict[str, str], arguments: tuple[str, ...]
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.mark = uuid.uuid4().hex
        config = directory / "deploy.toml"
        config.write_text(deploy)
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        command = [
            sys.executable,
            "-c",
            COMMAND,
            "-c",
            str(config),
            "dev",
            "--state",
            str(self.state),
            *arguments,
        ]
        with (directory / "stdout").open("ab") as stdout, (directory / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, **environ, MARK: self.mark},
                stdout=stdout,
                stderr=stderr,
                umask=0,  # the most careless of users
            )

    def eventbunker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with this service's deploy.toml, to its end."""
        return subprocess.run(
            [sys.executable, "-c", COMMAND, "-c", str(self.directory / "deploy.toml"), *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    @property
    def keys(self) -> dict[str, str]:
        """The members of dev.json."""
        content = json.loads((self.state / "dev.json").read_text())
        assert isinstance(content, dict)
        return content

    @property
    def url(self) -> str:
        return self.keys["url"]

    @property
    def redis_socket(self) -> Path:
        """Where its Redis listens: the directory of a test may be too long for a socket."""
        return State(self.state).redis_socket()

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def log(self) -> str:
        return (self.directory / "stderr").read_text()

    def logged(self, message: str) -> list[dict[str, object]]:
        """The log lines whose message is `message`. Every line of the log must be a JSON object."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        return [line for line in lines if line["message"] == message]

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until every check of /readyz is good."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"exit code {self.process.returncode}\n{self.log}")
            try:
                return plain_http.get(f"{self.url}/readyz?strict", timeout=5.0).status_code == 200
            except (httpx.TransportError, OSError, ValueError, KeyError, AssertionError):
                # dev.json may not be there yet, or still be what a test made of it
                return False

        try:
            until(ready, seconds, "/readyz?strict")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def pids(self, role: str) -> list[int]:
        """The processes of `role`: redis, store, drain or edge."""
        return [pid for pid, command in self.alive().items() if _role(command) == role]

    def alive(self) -> dict[int, str]:
        """Every process of this service, the supervisor too, orphans too: pid -> command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environ = (entry / "environ").read_bytes()
                # Redis writes its title over its environment; it is known by the directory it works in.
                if f"{MARK}={self.mark}".encode() in environ.split(b"\0") or (
                    (entry / "cwd").readlink() == self.state / "redis"
                ):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send `number` to one process of `role`; its pid."""
        pid = self.pids(role)[0]
        os.kill(pid, number)
        return pid

    def wait_restarted(self, role: str, old: int, seconds: float = START_SECONDS) -> None:
        """Until another process than `old` has the role."""
        until(lambda: [pid for pid in self.pids(role) if pid != old], seconds, f"a new {role}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, wait for that, and assert that nothing is left. Its exit code."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"it did not stop\n{self.log}") from None
        left = self.alive()
        self.end()
        assert not left, f"left behind: {left}"
        return code

    def end(self) -> None:
        """SIGKILL to everything."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(STOP_SECONDS)


class StartService(Protocol):
    """Start a service of the test's own. With `wait=False` it may still be starting, or failing."""

    def __call__(
        self,
        *arguments: str,
        deploy: str = "",
        environ: dict[str, str] | None = None,
        directory: Path | None = None,
        wait: bool = True,
    ) -> Service: ...


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service for the session. A test that kills a part waits until it is ready again."""
    started = Service(tmp_path_factory.mktemp("service"), "", {}, ("--port", "0"))
    try:
        started.wait_ready()
        yield started
        assert started.stop() == 0
    finally:
        started.end()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """A factory; `directory` of an earlier service starts on its state again."""
    started: list[Service] = []

    def start(
        *arguments: str,
        deploy: str = "",
        environ: dict[str, str] | None = None,
        directory: Path | None = None,
        wait: bool = True,
    ) -> Service:
        if directory is None:
            directory = tmp_path / f"service-{len(started)}"
            directory.mkdir()
        one = Service(directory, deploy, environ or {}, arguments or ("--port", "0"))
        started.append(one)
        if wait:
            one.wait_ready()
        return one

    yield start
    for one in started:
        one.end()


def _role(command: str) -> str:
    if "workers.process" in command:
        return command.split("workers.process ", 1)[1].split(maxsplit=1)[0]
    return "redis" if "redis-server" in command or "valkey-server" in command else "supervisor"
