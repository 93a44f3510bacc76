"""What the topology starts in place of `workers.process`: the same role, with a clock that can be stepped.

CHAOS_SABOTAGE names a safeguard to take out first (see `sabotage`); without it nothing is taken out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.chaos import clock


def main() -> int:
    """Run the role of the argv. Returns its exit code."""
    if path := os.environ.get(clock.VARIABLE):
        clock.follow(Path(path))
    from tests.chaos import sabotage  # takes out what CHAOS_SABOTAGE names, before it is used
    from workers import process  # after the clock: modules may keep a reference to it

    del sabotage
    return process.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
