"""A small disk of its own for each thing that must survive a full one: a tmpfs, in a mount namespace of ours.

Needs root. Where it may not be mounted, the directory is an ordinary one and filling it is refused with
the reason; nothing else changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from pathlib import Path

CLONE_NEWNS = 0x00020000
BALLAST = "ballast"
PIECE_BYTES = 1024 * 1024


class NoDisk(Exception):
    """This machine cannot do that; the message says why."""


def own_mounts() -> str:
    """Give this process mounts of its own, which vanish with it. "" when done, else why it cannot be."""
    if os.geteuid() != 0:
        return "mounting needs root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return f"no mount namespace ({os.strerror(ctypes.get_errno())})"
    done = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    return f"mount: {done.stderr.strip()}" if done.returncode else ""


class Disk:
    """A directory that can be filled to the last byte and freed again."""

    def __init__(self, path: Path, size_bytes: int, refusal: str) -> None:
        path.mkdir(mode=0o700, parents=True)
        self.path = path
        self._refusal = refusal
        if not refusal:
            options = f"size={size_bytes},mode=700"
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self._refusal = f"mount: {done.stderr.strip()}"

    def fill(self) -> None:
        """Leave no byte free. Errors: NoDisk."""
        if self._refusal:
            raise NoDisk(self._refusal)
        piece = PIECE_BYTES
        with (self.path / BALLAST).open("ab", buffering=0) as file:
            while piece:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2

    def free(self) -> None:
        """Remove what `fill` put there."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / BALLAST).unlink()

    def unmount(self) -> None:
        """Before the directory is removed."""
        if not self._refusal:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
