"""Loading chDB's extension, and the part of its interface that the embedded engine uses.

Knows nothing of statements or HTTP. Next: `workers.embedded_engine`.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Protocol, cast

STD_EXCEPTION = 1001
_RTLD_DEEPBIND = 0x00008


class EngineError(Exception):
    """The engine's exception. `code` as in ClickHouse's documentation; `message` is one line or more."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}")
        self.code = code


class Result(Protocol):
    """A complete answer; `elapsed` in seconds."""

    def bytes(self) -> bytes: ...
    def rows_read(self) -> int: ...
    def bytes_read(self) -> int: ...
    def elapsed(self) -> float: ...


class Connection(Protocol):
    """A session of its own. Every method raises RuntimeError with the engine's message."""

    def query(self, sql: bytes | str, format: str, params: dict[str, str] = ...) -> Result: ...
    def close(self) -> None: ...


class Library(Protocol):
    """The extension module."""

    def connect(self, path_and_arguments: str) -> Connection: ...


def load() -> Library:
    """The extension alone. `import chdb` would add numpy, pyarrow, an in-memory engine, 45 MB and 1.5 s.

    Errors: EngineError when chdb-core is not installed.
    """
    package = importlib.util.find_spec("chdb")
    if package is None or package.origin is None:
        raise EngineError(
            STD_EXCEPTION, "the embedded store needs chdb-core: pip install 'eventbunker[embedded]'"
        )
    library = Path(package.origin).with_name("_chdb.abi3.so")
    if sys.platform == "linux":
        # Its operators new and delete must come from its own allocator, whatever else is loaded.
        ctypes.CDLL(str(library), mode=sys.getdlopenflags() | _RTLD_DEEPBIND)
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(library))
    spec = importlib.util.spec_from_file_location("_chdb", library, loader=loader)
    if spec is None:
        raise EngineError(STD_EXCEPTION, f"cannot load {library.name}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module.set_signal_handlers_enabled(0)  # SIGTERM and SIGINT are the server's
    return cast(Library, module)
