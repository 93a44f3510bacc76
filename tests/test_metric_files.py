"""A process counts whether or not the disk has room for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.metric_files import BYTES, KINDS

SCRIPT = """
import resource, sys
from workers.metric_files import take_room
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)  # a disk with so much room in each file
print(take_room())
from app import metrics
for kind in ("a", "b"):
    metrics.TAIL_DROPPED.labels(kind).inc()
print("eventbunker_tail_dropped_total" in metrics.render().decode())
"""


def run(directory: Path, room: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(room)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_with_room_its_files_are_there_before_it_counts(tmp_path: Path) -> None:
    assert run(tmp_path, 10 * BYTES) == ["True", "True"]
    files = [*tmp_path.iterdir()]
    assert {path.name.rpartition("_")[0] for path in files} == set(KINDS), (
        "those that it makes, and no others"
    )
    for path in files:
        content = path.read_bytes()
        assert len(content) == BYTES
        assert 8 <= int.from_bytes(content[:4], sys.byteorder) < BYTES // 2


@pytest.mark.parametrize("room", [0, BYTES // 2])
def test_without_it_counts_for_itself(tmp_path: Path, room: int) -> None:
    assert run(tmp_path, room) == ["False", "True"]
    assert not [*tmp_path.iterdir()]
    assert run(tmp_path / "none", BYTES) == ["False", "True"]
