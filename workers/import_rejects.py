"""The file with the rows that were not imported: one JSON object a line, with line number and reasons.

In the order of the input, so that a run that goes on can cut off what it will write again.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import msgspec

from workers.import_content import InputError
from workers.import_pieces import Rejected


class _Line(msgspec.Struct):
    line: int


class Rejects:
    """Made when there is a first row for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def go_on(self, before_line: int) -> None:
        """Keep what is there of lines before `before_line`. Errors: InputError."""
        try:
            file = self.path.open("r+b")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(error) from None
        kept = 0
        for text in file:
            try:
                if not text.endswith(b"\n") or msgspec.json.decode(text, type=_Line).line >= before_line:
                    break
            except msgspec.DecodeError:
                raise InputError(
                    f"{self.path} is no list of rejected rows: move it, or name another file with --rejects"
                ) from None
            kept += len(text)
        file.truncate(kept)
        file.seek(kept)
        self._file = file

    def write(self, rejected: list[Rejected]) -> None:
        """Append, and hand to the system. Errors: InputError."""
        if not rejected:
            return
        try:
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(b"".join(map(_line, rejected)))
            self._file.flush()
        except OSError as error:
            raise self._error(error) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _error(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path} cannot be written: {error.strerror}; name another file with --rejects"
        )


def _line(one: Rejected) -> bytes:
    content = {
        "line": one.line,
        "errors": [{"path": problem.path, "message": problem.message} for problem in one.problems],
        "event": one.body.decode("utf-8", "backslashreplace"),
    }
    return msgspec.json.encode(content) + b"\n"
