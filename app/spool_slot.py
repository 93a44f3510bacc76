"""The directories of the spool: one slot for each edge process, locked while the process lives.

    <spool>/disk           what tells this directory from others, for `app.presence`
    <spool>/slot-0/lock            flock: whose slot this is; the kernel lets go of it however the owner dies
    <spool>/slot-0/000000000001.segment
    <spool>/slot-0/000000000001.damaged    bytes that could not be read, kept for a person to look at

A process takes the first slot that is free, with whatever a former owner left in it. Slots that nobody
locks any more (there were more processes once) are adopted, replayed and given back by `app.replay`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from app.spool_format import SEGMENT_HEAD

MAX_SLOTS = 1000


class Slot:
    """One locked slot. Errors of every method: OSError."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def segments(self) -> list[Path]:
        """The segments, oldest first."""
        return sorted(self.path.glob("*.segment"))

    def create(self, segment_bytes: int) -> tuple[Path, int]:
        """A new, last segment with its space allocated: path and descriptor.

        Allocated, so that a disk that fills up later cannot refuse what was promised room; synced, directory
        included, so that it is found again.
        """
        existing = self.segments()
        number = int(existing[-1].stem) + 1 if existing else 1
        path = self.path / f"{number:012d}.segment"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, segment_bytes)
            os.pwrite(descriptor, SEGMENT_HEAD, 0)
            os.fsync(descriptor)
            self._sync()
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return path, descriptor

    def remove(self, path: Path) -> None:
        """Remove a segment. Not synced: one that comes back is replayed again, which changes nothing."""
        path.unlink(missing_ok=True)

    def keep_damaged(self, segment: Path, content: bytes) -> None:
        """Set unreadable bytes aside. Repeating it for one segment leaves one copy of each."""
        path = segment.with_suffix(".damaged")
        if path.exists() and content in path.read_bytes():
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def renew(self) -> None:
        """If somebody removed the directory under us, take a slot again: the lock in hand guards nothing."""
        if os.fstat(self._lock).st_nlink == 0:
            other = take_free(self.path.parent)
            os.close(self._lock)
            self.path, self._lock = other.path, other._lock

    def release(self) -> None:
        """Let others have the slot."""
        os.close(self._lock)

    def _sync(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def take_free(spool: Path) -> Slot:
    """Lock the first free slot, making it if needed. Errors: OSError, also when all slots are taken."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(MAX_SLOTS):
        slot = _lock(spool / f"slot-{number}")
        if slot is not None:
            return slot
    raise OSError(f"all {MAX_SLOTS} slots of {spool} are taken")


def disk_id(spool: Path) -> str:
    """The name of this directory on its disk: the same for whoever finds it later, from whatever host or
    container; another one for a copy. Errors: OSError."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = spool / "disk"
    if not path.exists():
        mine = spool / f".disk-{os.urandom(8).hex()}"
        mine.write_text(os.urandom(8).hex())
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(mine, path)
        mine.unlink()
    return f"{path.read_text()}-{spool.stat().st_ino}"


def adopt(spool: Path) -> Slot | None:
    """Lock a slot that has segments and no owner; None when there is none. Errors: OSError."""
    for path in sorted(spool.glob("slot-*")):
        if next(path.glob("*.segment"), None) is None:
            continue
        slot = _lock(path)
        if slot is None:
            continue
        if slot.segments():  # looked at again: its owner may have finished in between
            return slot
        slot.release()
    return None


def _lock(path: Path) -> Slot | None:
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Slot(path, descriptor)
