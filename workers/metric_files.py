"""Room on the disk for what this process counts, taken before it counts anything.

prometheus_client maps files and writes into holes of theirs. Where the disk is full by then, the kernel ends
the process (SIGBUS), and an edge that should answer 503, or keep events in Redis, would die at each start. So
what they need is written first; where it cannot be, the process counts for itself, in memory.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemostrecent")  # those of `app.metrics`
BYTES = 64 * 1024  # as large as prometheus_client makes them; a third of it is used


def take_room() -> bool:
    """Call it before anything imports prometheus_client. False where there is no room."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not directory:
        return True
    paths = [Path(directory) / f"{kind}_{os.getpid()}.db" for kind in KINDS]
    try:
        for path in paths:
            path.touch(mode=0o600)
            path.write_bytes(bytes(BYTES))
    except OSError:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        return False
    return True
