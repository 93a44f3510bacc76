"""`make sabotage`: each safeguard is taken out in turn, and the test that guards it must fail.

First all of these tests must pass with everything in place; otherwise their failing says nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.sabotage import SAFEGUARDS, VARIABLE
from tests.service import ROOT

SITE = Path(__file__).parent / "site"
RUN_SECONDS = 400.0
TEST_SECONDS = 180
PASSED = 0  # pytest's exit code


def run(tests: list[str], without: str = "") -> tuple[int, str]:
    """pytest's exit code and what it printed."""
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env={**os.environ, VARIABLE: without, "PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def is_caught(printed: str) -> bool:
    """Did a test fail? Not for a fixture that broke, nor for want of time: neither says anything."""
    is_other = re.search(r"^(ERROR|E +Failed: Timeout)|\bTimeout\b", printed, re.M)
    return re.search(r"^\d+ failed\b", printed, re.M) is not None and not is_other


def reason(printed: str) -> str:
    """The first line that says what was wrong."""
    said = re.search(r"^E +(.*)$", printed, re.M)
    return said[1][:120] if said else ""


def main() -> int:
    """Returns the exit code: 0 when every safeguard is missed by its test."""
    parser = argparse.ArgumentParser(prog="make sabotage")
    parser.add_argument("names", nargs="*", help="safeguards; default: all")
    names = parser.parse_args().names
    chosen = [one for one in SAFEGUARDS if one.name in names or not names]
    code, printed = run(sorted({one.test for one in chosen}))
    if code != PASSED:
        print(f"the tests do not even pass with everything in place\n{printed}")
        return 1
    missed = 0
    for one in chosen:
        began = time.monotonic()
        code, printed = run([one.test], one.name)
        caught = is_caught(printed)
        missed += not caught
        verdict = "caught" if caught else f"NOT CAUGHT (exit {code})"
        print(
            f"{one.name:10} {verdict}  {time.monotonic() - began:5.1f} s  {one.test}: {reason(printed)}",
            flush=True,
        )
        if not caught:
            print(printed[-1500:])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
