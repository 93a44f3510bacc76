"""Names of what a process has open: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/1`, and links to these.

The system takes such a name for that of the file behind it. Whoever replaces that file takes away what others
wrote there, and what they write next goes into one that has no name any more.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

STANDARD_OUTPUT = 1
MOST_LINKS = 40  # as the system has it

_OPEN = re.compile(r"/proc/([0-9]+)(?:/task/[0-9]+)?/fd/([0-9]+)")


class Descriptor(NamedTuple):
    number: int
    is_own: bool


def descriptor_of(name: str) -> Descriptor | None:
    """Which one `name` means; None for the name of a file. It need not be open."""
    for _ in range(MOST_LINKS):
        directory, last = os.path.split(name)
        # Link by link: its last one leads to a file, and no way back from there.
        path = os.path.join(os.path.realpath(directory), last)
        if found := _OPEN.fullmatch(path):
            return Descriptor(int(found[2]), found[1] == os.path.basename(os.path.realpath("/proc/self")))
        try:
            name = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:  # no link, or nothing at all
            return None
    return None


def is_standard_output(name: str) -> bool:
    """Whether it is one of its other names, as `/dev/stdout` is."""
    return descriptor_of(name) == Descriptor(STANDARD_OUTPUT, is_own=True)
