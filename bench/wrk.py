"""One run of wrk, and what it counted."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.process import Cores, Keeper

CONNECTIONS = 32
MARGIN_SECONDS = 30.0
SCRIPT = Path(__file__).with_name("load.lua")
MISSING = "wrk is not installed: apt-get install wrk"


class WrkFailed(Exception):
    """The run cannot be counted; the message says why."""


@dataclass(frozen=True)
class Counted:
    """`good` are answers with 2xx or 3xx; latencies in milliseconds."""

    good: int
    bad: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


def is_missing() -> bool:
    return shutil.which("wrk") is None


def run(keeper: Keeper, url: str, key: str, bodies: Path, *, seconds: float, on: Cores) -> Counted:
    """Send from 32 connections for `seconds` (whole ones). Errors: WrkFailed."""
    log = bodies.with_suffix(".wrk")
    log.unlink(missing_ok=True)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--latency", "-s", str(SCRIPT), url]
    process = keeper.start(command, log=log, on=on, env={"KEY": key, "BODIES": str(bodies)})
    try:
        code = process.wait(seconds + MARGIN_SECONDS)
    except subprocess.TimeoutExpired:
        raise WrkFailed(f"wrk did not end {MARGIN_SECONDS:.0f} s after its time") from None
    finally:
        keeper.kill(process)
    return parse(log.read_text(), code)


def parse(output: str, code: int = 0) -> Counted:
    """The line that our script prints. Errors: WrkFailed."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if code or line is None:
        raise WrkFailed(f"wrk ended with {code}: {output.strip()[-300:]}")
    told = json.loads(line.removeprefix("RESULT "))
    if not told["requests"]:
        raise WrkFailed(f"no answer at all: {output.strip()[-300:]}")
    return Counted(
        good=told["requests"] - told["bad"],
        bad=told["bad"],
        broken=told["broken"],
        seconds=told["microseconds"] / 1e6,
        p50_ms=told["p50"] / 1000,
        p99_ms=told["p99"] / 1000,
        worst_ms=told["worst"] / 1000,
    )
