"""`make chaos ARGS="--seed 7 --faults 60"`: the command line. Exit code 1 when anything was lost or doubled."""

from __future__ import annotations

import argparse
import sys

from tests.chaos.report import table
from tests.chaos.run import run
from tests.chaos.schedule import KINDS, draw


def main() -> int:
    """Run each seed; print what happens and what was found. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make chaos", description="Faults of every kind, and what they cost."
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one run for each")
    parser.add_argument(
        "--faults", type=int, default=len(KINDS), help="of each run; default: every kind once"
    )
    parser.add_argument("--only", nargs="+", default=[], help="words: only kinds of faults that hold one")
    parser.add_argument("--rate", type=float, default=60.0, help="new events a second")
    parser.add_argument("--list", action="store_true", help="print the faults of the seeds and do nothing")
    given = parser.parse_args()
    if given.only and not draw(0, 1, given.only):
        parser.error(f"no kind holds one of these words; there are: {', '.join(kind.name for kind in KINDS)}")
    if given.list:
        for seed in given.seed:
            print(f"seed {seed}", *draw(seed, given.faults, given.only), sep="\n")
        return 0
    reports = []
    for seed in given.seed:
        say(f"seed {seed}: {given.faults} faults, {given.rate:g} new events a second")
        reports.append(run(seed, draw(seed, given.faults, given.only), rate=given.rate, say=say))
    print(f"\n{table(reports)}")
    return 0 if all(report.is_good for report in reports) else 1


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
