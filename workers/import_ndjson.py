"""NDJSON: one event a line. Without a mapping each event keeps the bytes that the line has."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from workers.import_content import (
    MAX_LINE_BYTES,
    UTF8_MARK,
    Chunk,
    InputError,
    Unreadable,
    too_long,
)
from workers.import_mapping import Mapping
from workers.import_text import Content, TextSource

PIECE_BYTES = 1024 * 1024  # read, or built of what is read: a piece ends with the event that reaches it
PIECE_ROWS = 5000  # of small events: one entry of the stream is a bite of the drain
SHOWN_BYTES = 65_536  # of a line that is too long to be kept
UNFINISHED = "the line is not finished: it has no line break, and is no whole JSON object"


class NdjsonSource(TextSource):
    """A `Source`. Empty lines are no rows."""

    def __init__(self, content: Content, mapping: Mapping, max_line_bytes: int) -> None:
        """Errors: InputError for what is JSON, but not one event a line."""
        super().__init__(content)
        self._mapping = mapping
        self._max_line_bytes = max_line_bytes
        content.fill(4096)
        head = bytes(content.waiting[:4096])
        self._mark_bytes = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
        first = head[self._mark_bytes :].lstrip()[:1]
        if first == b"[":
            raise InputError("this is one JSON array, not an event a line: `jq -c '.[]' FILE` makes it that")
        if b"\0" in head[:64]:
            raise InputError("this is not UTF-8 text; is it UTF-16? Then add --encoding utf-16")

    def read(self, until: int | None) -> Chunk | None:
        content = self._content
        size = self._whole_lines() if until is None else until - content.position
        first = content.line
        # Whole lines are never so many, whatever the limits are: it was one line that is too long.
        if size is None or size > 2 * PIECE_BYTES:
            return self._long_line(first, until)
        if not size:
            return self._last()
        content.fill(size)
        raw = bytes(memoryview(content.waiting)[:size])
        # The mark of UTF-8 stands before the first line and belongs to no event.
        lines = raw.removeprefix(UTF8_MARK).split(b"\n") if first == 1 else raw.split(b"\n")
        bodies: list[bytes | Unreadable] = [*lines]
        if b"\r" in raw:
            bodies = [line.removesuffix(b"\r") for line in lines]
        if not self._mapping.is_empty:
            bodies = [*self._mapped(lines, None if until is not None else PIECE_BYTES)]
            if behind := lines[len(bodies) :]:
                size = len(raw) - len(b"\n".join(behind))
        content.line += content.take(size).count(b"\n")
        return Chunk(bodies, range(first, first + len(bodies)), content.mark)

    def _mapped(self, lines: list[bytes], most: int | None) -> Iterator[bytes]:
        """As events; ends with the one that makes them `most` bytes."""
        built = 0
        for line in lines:
            if most is not None and built >= most:
                return
            event = self._mapping.apply(line) if line else line
            built += len(event)
            yield event

    def _whole_lines(self) -> int | None:
        """The bytes of some; 0 at the end, None where the next line is longer than any event may be."""
        content, size = self._content, PIECE_BYTES
        while True:
            has_all = content.fill(size)
            end = content.waiting.rfind(b"\n", 0, size) + 1
            if not has_all and not content.is_cut_off and _is_whole(content.waiting[end:]):
                end = len(content.waiting)
            if end or not has_all:
                break
            if size > self._max_line_bytes:
                return None
            size += PIECE_BYTES
        if content.waiting.count(b"\n", 0, end) > PIECE_ROWS:
            end = -1
            for _ in range(PIECE_ROWS):
                end = content.waiting.index(b"\n", end + 1)
            end += 1
        return end

    def _last(self) -> Chunk | None:
        """At the end: the line that is not whole, if there is one. It is not taken."""
        content = self._content
        rest = bytes(content.waiting).removeprefix(UTF8_MARK)
        is_row = rest.strip() and not content.is_cut_off
        return self._behind_rows(Unreadable(UNFINISHED, rest) if is_row else None)

    def _long_line(self, first: int, until: int | None) -> Chunk | None:
        """Pass over a line without keeping it."""
        content, set_back = self._content, self._content.keep_mark()
        start, head = content.position, bytes(content.waiting[:SHOWN_BYTES])
        while content.fill(1):
            found = content.waiting.find(b"\n")
            size = found + 1 if found >= 0 else len(content.waiting)
            if until is not None:
                size = min(size, until - content.position)
            content.take(size)
            if content.position - start > MAX_LINE_BYTES:
                raise too_long(first)
            if found >= 0 or content.position == until:
                break
        reason = (
            f"the line has {content.position - start:,} bytes; an event has at most {self._max_line_bytes:,}"
        )
        row = Unreadable(reason, head.partition(b"\n")[0])
        if found < 0 and until is None:
            set_back()
            return self._behind_rows(None if content.is_cut_off else row)
        content.line = first + (found >= 0)
        return Chunk([row], [first], content.mark)


def _is_whole(rest: bytearray) -> bool:
    """Is what follows the last line break a row? Of an object that was cut off anywhere nothing is one."""
    try:
        return isinstance(msgspec.json.decode(rest.removeprefix(UTF8_MARK)), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
