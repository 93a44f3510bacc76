"""What an import is asked for, apart from what it reads: the words are `workers.import_command`'s."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True):
    """How to go about it. `rejects` is None for the default place."""

    rejects: Path | None = None
    again: str = ""
    patience_seconds: float = 60.0
    grown: bool = False
    strict: bool = False
    dry_run: bool = False
    waits: bool = True
    quiet: bool = False
    as_json: bool = False
