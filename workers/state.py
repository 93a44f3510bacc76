"""The state directory of `eventbunker dev`: who may use it, and what lies where. All of it is private (0700).

lock            held by the supervisor and its children: one service for each directory
dev.json        the developer's keys and url      redis/    append-only file, redis.conf, redis.log
store.json      url and token of the store        store/    the engine's data
drain.slot      the drain's name in its leases    metrics/  counters, emptied at each start
                                                  spool/    what edges keep while Redis is away
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from pathlib import Path

LOCK_SECONDS = 10.0  # for the children of a supervisor that was killed to go
POLL_SECONDS = 0.02
LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class StateError(Exception):
    """The directory cannot be used; the message says why and what to do."""


class State:
    """An existing, private directory. Errors of the constructor: StateError."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        if unusable := sorted(set("?&#%") & set(str(self.path))):
            raise StateError(
                f"the state directory {self.path} holds {' '.join(unusable)}, which the engine refuses;"
                " choose another with STATE="
            )
        try:
            for directory in (self.path, self.redis, self.metrics):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"the state directory {self.path} cannot be made: {error.strerror}") from error
        self.path.chmod(0o700)
        self._lock = -1

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics"

    @property
    def dev_json(self) -> Path:
        return self.path / "dev.json"

    @property
    def lock_descriptor(self) -> int:
        """Children inherit it: the directory stays locked until the last of them is gone."""
        return self._lock

    def lock(self) -> None:
        """Take the directory for this process and its children. Errors: StateError when another has it."""
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
                if _is_alive(holder) or time.monotonic() > end:
                    raise StateError(
                        f"another eventbunker (pid {holder or 'unknown'}) is using {self.path}: "
                        "stop it, or choose another directory with STATE=… (--state)"
                    ) from error
                time.sleep(POLL_SECONDS)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def secret(self, name: str) -> str:
        """The random text in file `name`, made at the first call."""
        path = self.path / name
        if not path.exists():
            self.write(path, secrets.token_urlsafe(24))
        return path.read_text().strip()

    def write(self, path: Path, content: str) -> None:
        """Write a private file so that a crash leaves the old content or the new, never a part."""
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def write_json(self, path: Path, content: dict[str, str]) -> None:
        """`write`, as indented JSON."""
        self.write(path, json.dumps(content, indent=2) + "\n")

    def read_json(self, path: Path) -> dict[str, str]:
        """The object in `path`; empty when there is none or it cannot be read as one."""
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def redis_socket(self) -> Path:
        """Where Redis listens: in the state directory, unless the kernel finds that path too long.

        Errors: StateError when the short directory belongs to somebody else.
        """
        path = self.redis / "redis.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        directory = base / f"eventbunker-{os.getuid()}-{digest}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077 or directory.is_symlink():
            raise StateError(f"{directory} is not ours alone: choose a shorter state directory with STATE=…")
        return directory / "redis.sock"

    def store_port(self) -> int:
        """The loopback port of the store: the former one if it is free, so that saved urls keep working."""
        url = self.read_json(self.path / "store.json").get("url", "")
        former = url.rpartition(":")[2]
        for port in (int(former) if former.isdigit() else 0, 0):
            try:
                with socket.create_server(("127.0.0.1", port)) as probe:
                    return int(probe.getsockname()[1])
            except OSError:
                continue
        raise StateError("no loopback port is free")

    def fresh_metrics(self) -> Path:
        """The directory of the counters, emptied: they count since the start."""
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir(mode=0o700, exist_ok=True)
        return self.metrics


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
