"""The stored results: bench/ measures them, the report is made of them, and nothing else is.

One JSON object: `machine`, `versions`, and for each part its figures with the commit and the day they are of, and
the versions that were other ones than those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import machine

Results = dict[str, Any]

DIRECTORY = Path(__file__).parent.parent / "docs" / "performance"
PATH = DIRECTORY / "results.json"


def empty(directory: Path = DIRECTORY) -> Results:
    """Of this machine, with no part yet. `directory`: on the disk that is measured."""
    return {
        "machine": machine.machine(directory),
        "versions": machine.versions(),
        "parts": {},
        "left_out": {},
    }


def add(results: Results, part: str, figures: dict[str, Any], seconds: float) -> None:
    """One part's figures; what was said of it before is forgotten."""
    stamp = {"commit": machine.commit(), "date": machine.today(), "seconds": round(seconds)}
    other = {
        name: version
        for name, version in machine.versions().items()
        if results["versions"].get(name) != version
    }
    results["parts"][part] = {**stamp, "other_versions": other, "figures": figures}
    results["left_out"].pop(part, None)


def leave_out(results: Results, part: str, reason: str) -> None:
    """A part that was skipped or failed, and why."""
    results["parts"].pop(part, None)
    results["left_out"][part] = reason


def load(path: Path = PATH) -> Results | None:
    """What was stored; None if nothing was."""
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise TypeError(f"{path} holds no results")
    return content


def save(results: Results, path: Path = PATH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
