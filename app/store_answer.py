"""A large answer of the store -> its rows, some at a time: who waits for the loop waits for no answer.

To decode 64 MiB in one step would hold up every event that is being tracked for half a second, in a thread
too, since the decoder keeps the interpreter to itself. JSONCompact writes each row on a line, and JSON has no
line breaks inside of strings: so lines are rows, and some lines are a small step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

STEP_BYTES = 256 * 1024  # about a millisecond
_BEGIN, _END = b'"data":\n\t[\n', b"\n\t],\n"  # a row's line begins with two tabs


class Column(msgspec.Struct, frozen=True):
    """A column's name, and its type as the engine names it."""

    name: str
    type: str


class Compact(msgspec.Struct, frozen=True):
    """What FORMAT JSONCompact says. `rows` counts `data`."""

    meta: list[Column]
    data: list[list[object]]
    rows: int


_COMPACT = msgspec.json.Decoder(Compact)
_ROWS = msgspec.json.Decoder(list[list[object]])


async def decode(content: bytes) -> Compact:
    """The whole answer. Errors: msgspec.DecodeError where it is cut short or no JSON."""
    begin, end = content.find(_BEGIN, 0, STEP_BYTES) + len(_BEGIN), content.rfind(_END)
    if len(content) <= STEP_BYTES or not len(_BEGIN) <= begin <= end:
        return _COMPACT.decode(content)
    rows: list[list[object]] = []
    for lines in _steps(content, begin, end):
        rows += _ROWS.decode(b"[%b]" % lines.rstrip(b","))
        await asyncio.sleep(0)
    about = _COMPACT.decode(content[:begin] + content[end:])
    if about.rows != len(rows):
        raise msgspec.DecodeError(f"{len(rows)} of {about.rows} rows")
    return Compact(about.meta, rows, about.rows)


def _steps(content: bytes, begin: int, end: int) -> Iterator[bytes]:
    """Whole lines, together about STEP_BYTES, or one that is longer."""
    while begin < end:
        cut = end if end - begin <= STEP_BYTES else content.rfind(b"\n", begin, begin + STEP_BYTES)
        if cut < 0:
            cut = content.find(b"\n", begin, end)
        cut = end if cut < 0 else cut
        yield content[begin:cut]
        begin = cut + 1
