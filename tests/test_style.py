"""ruff and mypy --strict are clean over app, workers, tests and bench: what `make check` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Without one that `make check` has left, all is looked at, and a machine that is used once would write one for nobody.
CACHE = () if (ROOT / ".mypy_cache").exists() else ("--cache-dir", os.devnull)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy", *CACHE)],
    ids=("ruff check", "ruff format --check", "mypy"),
)
def test_is_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
