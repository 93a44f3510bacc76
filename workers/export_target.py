"""Where an export's bytes go: standard output, a device or pipe, or a file that is whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from workers import output
from workers.asking import Failed
from workers.descriptors import descriptor_of
from workers.endings import as_ctrl_c

Write = Callable[[bytes], object]

# Of a name, in that of its part: with all of a long one it would be longer than file systems take. In
# characters, of which each has at most four bytes.
PART_OF_NAME = 40


@contextlib.contextmanager
def writing(name: str) -> Iterator[Write]:
    """What takes the bytes that go to the file `name`, or to standard output for `-`.

    Errors: Failed; endings.Ended; SystemExit where nobody reads standard output any more.
    """
    descriptor = descriptor_of(name)
    if name == "-":
        target = _standard_output()
    elif descriptor and descriptor.is_own:
        target = _descriptor(descriptor.number, name)
    else:
        found = _found(name)
        if found and not stat.S_ISREG(found.st_mode):
            target = _device(Path(name))
        elif descriptor:
            # It knows where it writes next, which is here then.
            raise Failed(2, f"{name} is a file that another process has open: write to - or to another file")
        else:
            # A symbolic link stays one: the file that it names is written, and replaced where that lies.
            target = _whole_file(Path(os.path.realpath(name)), name, found)
    with target as write:
        yield write


def _found(name: str) -> os.stat_result | None:
    """What is replaced, None where nothing is. Errors: Failed, where nothing can be written at the end."""
    if os.path.basename(name) in ("", ".", ".."):  # the system would see `new`, a file, in `new/`
        raise Failed(2, f"{name} is the name of a directory: name a file")
    try:
        return os.stat(name)
    except FileNotFoundError:
        return None
    except OSError as error:  # as of links that lead in a circle
        raise Failed(2, f"{name} cannot be written: {error.strerror}; name another file") from None


@contextlib.contextmanager
def _standard_output() -> Iterator[Write]:
    file = sys.stdout.buffer

    def write(piece: bytes) -> None:
        with output.told():
            file.write(piece)

    try:
        yield write
        with output.told():
            file.flush()
    except BrokenPipeError:  # `| head` has enough
        sys.exit(0)


@contextlib.contextmanager
def _descriptor(number: int, name: str) -> Iterator[Write]:
    """From where it stands: what is in its file stays there."""
    try:
        file = FileIO(os.dup(number), "wb")
    except OSError as error:
        raise Failed(2, f"{name} cannot be written: {error.strerror}") from None
    with file:
        yield lambda piece: _write(file, piece, name)


@contextlib.contextmanager
def _device(path: Path) -> Iterator[Write]:
    """Or a named pipe."""
    with _opened(path, str(path), "wb") as file:
        yield lambda piece: _write(file, piece, str(path))


@contextlib.contextmanager
def _whole_file(path: Path, name: str, former: os.stat_result | None) -> Iterator[Write]:
    """Beside `path`, which it becomes at the end. The name is its own: another export that writes the same
    file at the same time would go on in it, and take it away."""
    part = path.with_name(f"{path.name[:PART_OF_NAME]}.{secrets.token_hex(4)}.part")
    with as_ctrl_c():
        try:
            with _opened(part, name, "xb", 0o600 if former else 0o666) as file:
                if former:
                    _let_read(file.fileno(), former)
                yield lambda piece: _write(file, piece, name)
                with _told(name):
                    os.fsync(file.fileno())
            with _told(name):
                part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _let_read(descriptor: int, former: os.stat_result) -> None:
    """Have it read by whoever might read the `former` file, and nobody else."""
    mode = stat.S_IMODE(former.st_mode) & 0o777
    with contextlib.suppress(OSError):  # only root may give a file away
        os.fchown(descriptor, former.st_uid, -1)
    try:
        os.fchown(descriptor, -1, former.st_gid)
    except OSError:
        # It is another group's now, whose people were among all others.
        mode = mode & 0o707 | (mode & 0o070 & (mode & 0o007) << 3)
    with contextlib.suppress(OSError):  # on a file system that has no modes
        os.fchmod(descriptor, mode)


def _opened(path: Path, name: str, mode: str, permissions: int = 0o666) -> FileIO:
    try:
        # Without a buffer, which would be tried once more where the disk is full.
        return FileIO(path, mode, opener=lambda path, flags: os.open(path, flags, permissions))
    except OSError as error:
        raise Failed(2, f"{name} cannot be written: {error.strerror}") from None


def _write(file: FileIO, piece: bytes, name: str) -> None:
    rest = memoryview(piece)
    with _told(name):
        while rest:
            rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise Failed(3, f"{name} cannot be written: who read it has gone") from None
    except OSError as error:
        raise Failed(3, f"{name} cannot be written: {error.strerror}") from None
