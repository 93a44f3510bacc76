"""What a run found, as a table for people."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from tests.chaos.schedule import Planned
from tests.chaos.verdict import Verdict


@dataclass
class Done:
    """A fault that happened, or was skipped."""

    planned: Planned
    at: float
    shared: bool  # with another fault: the recovery is of both
    note: str = ""
    skipped: str = ""  # the reason, where this machine does not permit it
    recovery: float | None = None  # seconds


@dataclass
class Report:
    """What a run found."""

    seed: int
    faults: list[Done] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    dead: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not self.verdict.wrong and not self.failures


def line(done: Done) -> str:
    """One fault, for people."""
    recovery = "" if done.recovery is None else f"recovered in {done.recovery:.2f} s"
    together = "  (with another)" if done.shared else ""
    said = f"skipped: {done.skipped}" if done.skipped else done.note
    return f"{done.at:7.1f} s  {done.planned.number:3d}  {done.planned!s:58} {recovery}{together}  {said}"


def table(reports: list[Report]) -> str:
    """What all the runs found, for people."""
    alone: dict[str, list[float]] = defaultdict(list)
    shared: dict[str, list[float]] = defaultdict(list)
    skipped: dict[str, str] = {}
    for done in (done for report in reports for done in report.faults):
        if done.recovery is None:
            skipped[done.planned.kind] = f"skipped: {done.skipped}"
        else:
            (shared if done.shared else alone)[done.planned.kind].append(done.recovery)
    lines = [f"{'kind of fault':34} {'times':>5}  {'median':>7} {'slowest':>8}  {'slowest with another':>20}"]
    for kind in sorted({*alone, *shared}):
        one, two = sorted(alone[kind]), shared[kind]
        middle = f"{one[len(one) // 2]:5.2f} s" if one else "-"
        slowest = f"{one[-1]:6.2f} s" if one else "-"
        other = f"{max(two):.2f} s" if two else "-"
        lines.append(f"{kind:34} {len(one) + len(two):5}  {middle:>7} {slowest:>8}  {other:>20}")
    lines += [f"{kind:34} {note}" for kind, note in sorted(skipped.items())]
    for report in reports:
        lines.append("")
        lines += summary(report)
    return "\n".join(lines)


def summary(report: Report) -> list[str]:
    """The figures of one run."""
    verdict = report.verdict
    happened = sum(done.recovery is not None for done in report.faults)
    lines = [
        f"seed {report.seed}: {happened} faults in {report.seconds:.0f} s,"
        f" {len(report.faults) - happened} skipped",
        f"  acknowledged {verdict.acknowledged}, lost {len(verdict.lost)}, doubled {len(verdict.doubled)},"
        f" event_ids more than once {len(verdict.repeated_ids)}, dead letters {report.dead}",
        f"  stored {verdict.stored}, of which nobody was told {verdict.unanswered_stored};"
        f" requests by status: {json.dumps(dict(sorted(verdict.attempts.items())))} (0: no answer)",
    ]
    lines += [f"  {times} refused: {reason}" for reason, times in verdict.refusals.most_common()]
    lines += [f"  FAILED: {failure}" for failure in report.failures]
    for what, cases in verdict.wrong.items():
        lines.append(f"  WRONG: {what}: {len(cases)}")
        lines += [f"    {case[:1500]}" for case in cases[:5]]
    return lines
