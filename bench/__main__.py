"""`make bench`: every part side by side on this machine, and docs/performance.md from what they found.

    make bench                          all parts, about half an hour, writes the report
    make bench ARGS=--quick             what matters most, under three minutes, prints it only
    make bench ARGS="post batch"        these parts; add --write to put them into the stored results
    make bench ARGS=--report            makes the report anew from the stored results
    make bench ARGS=--list              the parts

Loopback only, bounded rates and times. Files go to TMPDIR, to .eventbunker/bench where that is in memory, and
are removed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

from bench import report, results
from bench.context import Bench, Progress, Skip
from bench.machine import ROOT, file_system
from bench.parts import PARTS, QUICK, Part
from bench.process import Keeper, adopt_orphans, end_descendants

WORK = ROOT / ".eventbunker" / "bench"
IN_MEMORY = ("tmpfs", "ramfs")


def main() -> int:
    """Exit code 0 when every part ran, 1 when one failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller tables; prints only")
    parser.add_argument("--write", action="store_true", help="put the named parts into the stored results")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report anew")
    parser.add_argument("--list", action="store_true", help="say what the parts measure")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if chosen.quick and chosen.write:
        parser.error("--quick is too short to be published: leave out --write")
    if chosen.list:
        print("\n".join(f"{name:<10} {part.title}" for name, part in PARTS.items()))
        return 0
    if chosen.report:
        return _report_anew()
    names = chosen.parts or [name for name in PARTS if not chosen.quick or name in QUICK]
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # a shell starts what is in its background deaf to the first
        signal.signal(number, _interrupt)
    try:
        found = _run({name: PARTS[name] for name in names}, is_quick=chosen.quick)
    except KeyboardInterrupt:
        print("bench: stopped; nothing was written", file=sys.stderr)
        return 130
    stored = results.load() if chosen.parts and chosen.write else None
    if stored is not None:
        for name in names:
            stored["parts"].pop(name, None)
            stored["left_out"].pop(name, None)
        stored["parts"] |= found["parts"]
        stored["left_out"] |= found["left_out"]
    print(report.text(found))
    if chosen.write or not (chosen.parts or chosen.quick):
        results.save(stored or found)
        report.write(stored or found)
        print("bench: wrote docs/performance.md and docs/performance/", file=sys.stderr)
    failed = [name for name in names if name not in found["parts"]]
    return 1 if failed else 0


def _report_anew() -> int:
    stored = results.load()
    if stored is None:
        print("bench: nothing is stored yet; run `make bench`", file=sys.stderr)
        return 1
    report.write(stored)
    return 0


def _run(parts: dict[str, Part], *, is_quick: bool) -> results.Results:
    """The results of `parts`; one that fails costs the others nothing."""
    base = Path(tempfile.gettempdir())
    if file_system(base) in IN_MEMORY:  # where fsync costs nothing
        base = WORK
        base.mkdir(parents=True, exist_ok=True)
    if (kind := file_system(base)) in IN_MEMORY:
        print(f"bench: {base} is on {kind}: fsync costs nothing there; set TMPDIR", file=sys.stderr)
    progress = Progress({name: part.seconds[is_quick] for name, part in parts.items()})
    found = results.empty(base)
    work = Path(tempfile.mkdtemp(prefix="eb-bench-", dir=base))
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory(prefix="eb-bench-") as sockets, Keeper() as keeper:
            tempfile.tempdir = str(work)  # for the parts that make directories of their own
            bench = Bench(work, Path(sockets), keeper, progress, is_quick=is_quick)
            for name, part in parts.items():
                progress.start(name)
                began = time.monotonic()
                try:
                    figures = part.measure(bench)
                except Skip as reason:
                    progress.say(f"skipped: {reason}")
                    results.leave_out(found, name, f"skipped: {reason}")
                except Exception as error:  # whatever it is, the other parts go on
                    traceback.print_exc()
                    cause = f"{type(error).__name__}: {error}".splitlines()[0]
                    results.leave_out(found, name, f"failed: {cause}")
                else:
                    results.add(found, name, figures, time.monotonic() - began)
                progress.say(f"took {time.monotonic() - began:.0f} s")
    finally:
        end_descendants()
        shutil.rmtree(work, ignore_errors=True)
    return found


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
