"""The file with the rows that were not imported: one JSON object a line, with line number and reasons.

In the order of the input, so that a run that goes on can cut off what it will write again.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

import msgspec

from app.errors import Problem
from workers.import_content import InputError
from workers.import_pieces import Rejected

START = b'{"line":'  # of every line that we write
MAX_BYTES = 16 * 1024 * 1024  # far more than one that we write has


class _Problem(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    message: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    line: int
    errors: list[_Problem]
    event: str


class Rejects:
    """Made when there is a first row for it; then it replaces that of another import, but nothing else."""

    def __init__(self, path: Path, *, is_named: bool = False) -> None:
        """`is_named`: somebody wants it there."""
        self.path = path
        self._is_named = is_named
        self._file: BinaryIO | None = None

    def check(self) -> None:
        """Before anything is imported. Errors: InputError for a file with something else in it, and for a
        named one that cannot be written; the default's place matters only where a row is rejected."""
        with self._open() as file:
            self._read(file)
        try:
            if self._is_named:
                self._see_whether_it_can_be_written()
        except OSError as error:
            raise self._error(error) from None

    def go_on(self, line: int, end: int) -> dict[int, list[Problem]]:
        """Keep what is there before `line`; from there to `end` return the reasons. Errors: InputError."""
        kept, reasons = 0, {}
        with self._open() as file:
            while (found := self._read(file)) is not None and found.line < end:
                if found.line >= line:
                    reasons[found.line] = [Problem(one.path, one.message) for one in found.errors]
                elif not reasons:
                    kept = file.tell()
        try:
            if self.path.is_file():
                self._file = self.path.open("r+b")
                self._file.truncate(kept)
                self._file.seek(kept)
        except OSError as error:
            raise self._error(error) from None
        return reasons

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
        """Errors: InputError where the disk tells only now that it has no room."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            raise self._error(error) from None

    def _see_whether_it_can_be_written(self) -> None:
        """Without making it. Errors: OSError."""
        place = self.path
        try:
            if stat.S_ISDIR(place.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except FileNotFoundError:  # a link may lead to where it would be made
            place = Path(os.path.realpath(place)).parent
            place.stat()
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission, or a read-only disk")

    def _open(self) -> BinaryIO:
        """What is there, empty if nothing is. Errors: InputError."""
        try:
            # A device or a pipe holds nothing to lose.
            return self.path.open("rb") if self.path.is_file() else io.BytesIO()
        except OSError as error:
            raise self._error(error) from None

    def _read(self, file: BinaryIO) -> _Line | None:
        """The next line; None behind the last whole one. Errors: InputError where it is none of ours."""
        text = file.readline(len(START))
        if START.startswith(text) and len(text) < len(START):
            return None  # the end, or where the disk was full
        if text == START:
            text += file.readline(MAX_BYTES)
            is_whole = text.endswith(b"\n")
            try:
                found = msgspec.json.decode(text, type=_Line)
                return found if is_whole else None
            except msgspec.ValidationError:
                pass
            except msgspec.DecodeError:
                if not is_whole and len(text) < MAX_BYTES:
                    return None
        raise InputError(
            f"{self.path} is no list of rejected rows, and would be overwritten: move it, or name another "
            "file with --rejects"
        )

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
