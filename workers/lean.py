"""structlog and httpx without what they import on the chance that somebody wants it.

structlog draws tracebacks with rich, and httpx has a command line, wherever rich is installed. No process of
ours uses either, and rich, Pygments and attrs take a fifth of its start.
"""

from __future__ import annotations

import importlib
import sys

_OPTIONAL = ("rich", "httpx._main")


def import_lean(*names: str) -> None:
    """Import the modules `names` as if rich were not there. Afterwards, whoever asks for it finds it."""
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: importing it fails
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]
