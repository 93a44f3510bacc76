"""Where and with what it was measured: the part of the report that makes a figure worth reading."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workers import redis_server
from workers.redis_server import RedisMissing

ROOT = Path(__file__).parent.parent
PEER = Path(__file__).with_name("peer")
PACKAGES = ("hypercorn", "uvicorn", "httptools", "uvloop", "starlette", "msgspec", "redis", "chdb-core")
COMMAND_SECONDS = 10.0


def machine(directory: Path) -> dict[str, str]:
    """CPU, cores, memory, kernel, file system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system(directory),
    }


def versions() -> dict[str, str]:
    """What ran, by name; what is not installed is left out."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    with contextlib.suppress(RedisMissing):
        found["Redis"] = ".".join(map(str, redis_server.find().version))
    found["node"] = _said("node", "--version").removeprefix("v")
    found["wrk"] = next(iter(re.findall(r"(\d+\.\d+\.\d+)", _said("wrk", "--version"))), "")
    for name in ("fastify", "ioredis"):
        manifest = PEER / "node_modules" / name / "package.json"
        found[name] = json.loads(manifest.read_text())["version"] if manifest.exists() else ""
    return {name: value for name, value in found.items() if value}


def commit() -> str:
    """Of the checkout, with `+` when files were changed since; "" outside of git."""
    head = _said("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    dirty = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", ":!docs")
    return f"{head}{'+' if dirty else ''}"


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def file_system(path: Path) -> str:
    """The type of what `path` lies on, such as ext4."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, name, *_ = line.split()
        inside = mounted == "/" or str(path).startswith(f"{mounted}/") or str(path) == mounted
        if inside and len(mounted) >= len(best):
            best, kind = mounted, name
    return kind


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    """What a program prints first, "" if it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    return (done.stdout or done.stderr).strip()
