"""Subjects under load in turn, A B C A B C, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import wrk
from bench.context import Bench, Skip
from bench.process import cpu_seconds, machine_seconds, reaped_seconds
from bench.stats import median, ratio, spread
from bench.subjects import Running, Subject, install_peer

Runs = dict[str, list[dict[str, Any]]]  # name of the subject and load -> its rounds


@dataclass(frozen=True)
class Load:
    """Bodies to send to `path`; `size` is the events of each; `seconds` where it is not as long as others."""

    name: str
    path: str
    bodies: Path
    size: int = 1
    seconds: int = 0


def alternate(
    bench: Bench, subjects: Sequence[Subject], loads: Sequence[Load], *, rounds: int, warm: int, seconds: int
) -> Runs:
    """Every subject under every load, `rounds` times. Keys of the result: `subject` or `subject @ load`."""
    if wrk.is_missing():
        raise Skip(wrk.MISSING)
    found: Runs = {}
    for number in range(1, rounds + 1):
        for subject in subjects:
            bench.progress.say(f"round {number} of {rounds}, {subject.name}")
            with subject.run(bench) as running:
                for load in loads:
                    one = measure(bench, running, load, warm, load.seconds or seconds)
                    found.setdefault(key(subject.name, load), []).append(one)
    return found


def key(subject: str, load: Load) -> str:
    return f"{subject} @ {load.name}" if load.name else subject


def measure(bench: Bench, running: Running, load: Load, warm: int, seconds: int) -> dict[str, Any]:
    """One run after a warm-up: rates, latencies, processor time, and whether Redis holds what was answered."""

    def send(length: int) -> wrk.Counted:
        url = f"{running.url}{load.path}"
        return wrk.run(bench.keeper, url, running.key, load.bodies, seconds=length, on=bench.load_core)

    before = send(warm)
    others = Others([running.pid, *([running.redis.process.pid] if running.redis else [])])
    cpu = cpu_seconds(running.pid)
    counted = send(seconds)
    cpu = cpu_seconds(running.pid) - cpu
    disturbed = others.cores()
    if not counted.good:
        raise RuntimeError(f"{load.path}: {counted.bad} answers, none of them a 200")
    events = counted.good * load.size
    answered = events + before.good * load.size
    return {
        "requests_per_second": round(counted.good / counted.seconds, 1),
        "events_per_second": round(events / counted.seconds, 1),
        "p50_ms": round(counted.p50_ms, 2),
        "p99_ms": round(counted.p99_ms, 2),
        "others": disturbed,
        "bad": counted.bad + before.bad,
        "broken": counted.broken + before.broken,
        "cpu_us_per_event": round(cpu / events * 1e6, 2),
        "answered": answered,
        # Two runs of wrk, at the end of which it hangs up on the requests that are under way.
        "in_flight_at_most": 2 * wrk.CONNECTIONS * load.size,
        "stored": running.take(),
    }


class Others:
    """How many cores were busy for somebody else, or taken by the machine's host, since it was made."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._began, self._before = time.monotonic(), self._foreign()

    def cores(self) -> float:
        return round(max(0.0, (self._foreign() - self._before) / (time.monotonic() - self._began)), 2)

    def _foreign(self) -> float:
        busy, stolen = machine_seconds()
        return busy + stolen - sum(cpu_seconds(pid) for pid in self._pids) - reaped_seconds()


def is_conserved(one: dict[str, Any]) -> bool:
    """Nothing that was answered is missing; what is beyond was under way when wrk hung up."""
    if one["stored"] is None:
        return True
    return bool(0 <= one["stored"] - one["answered"] <= one["in_flight_at_most"])


def summary(runs: Runs) -> dict[str, dict[str, float]]:
    """The medians of each subject's rounds."""
    return {
        name: {
            **{
                column: round(median([one[column] for one in rounds]), 2)
                for column in (
                    "requests_per_second", "events_per_second", "p50_ms", "p99_ms", "cpu_us_per_event"
                )
            },
            "spread": round(spread([one["events_per_second"] for one in rounds]), 3),
        }
        for name, rounds in runs.items()
    }  # fmt: skip


def compare(runs: Runs, ours: str, theirs: str, column: str = "events_per_second") -> float | None:
    """The median ratio; None where one of them did not run."""
    if ours not in runs or theirs not in runs:
        return None
    return round(ratio([one[column] for one in runs[ours]], [one[column] for one in runs[theirs]]), 3)


def conservation(runs: Runs) -> dict[str, int]:
    """Over all runs of those that keep events: answered with 2xx, found in Redis, missing, bad answers."""
    kept = [one for rounds in runs.values() for one in rounds if one["stored"] is not None]
    return {
        "answered": sum(one["answered"] for one in kept),
        "stored": sum(one["stored"] for one in kept),
        "in_flight_at_most": sum(one["in_flight_at_most"] for one in kept),
        "violations": sum(not is_conserved(one) for one in kept),
        "missing": sum(max(0, one["answered"] - one["stored"]) for one in kept),
        "bad": sum(one["bad"] for one in kept),
        "broken": sum(one["broken"] for one in kept),
    }


def disturbance(runs: Runs) -> float:
    """Cores that others kept busy: the median over all runs."""
    return round(median([one["others"] for rounds in runs.values() for one in rounds]), 2)


def peer_or_nothing(bench: Bench, durability: str = "always") -> tuple[list[Subject], str]:
    """The peer, or why it is left out."""
    try:
        install_peer()
    except Skip as reason:
        bench.progress.say(f"without the peer: {reason}")
        return [], str(reason)
    return [Subject("peer", "", durability)], ""
