"""CSV: a header, then one event a row. A cell that is spelt as JSON's numbers, booleans and null are is one.

Python's csv module reads it, as RFC 4180 says and as spreadsheets write it: cells may be quoted, and quoted
ones may hold line breaks.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator

from workers.import_content import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    UTF8_MARK,
    Chunk,
    InputError,
    Unreadable,
    too_long,
)
from workers.import_mapping import Builder, JsonBytes, Mapping, as_timestamp, encode
from workers.import_ndjson import PIECE_BYTES, PIECE_ROWS
from workers.import_text import Content, TextSource

DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS = {"true": b"true", "false": b"false", "null": b"null"}
_FIRST = frozenset("-0123456789tfn")


class CsvSource(TextSource):
    """A `Source`. Empty lines are no rows."""

    def __init__(self, content: Content, mapping: Mapping, max_line_bytes: int, delimiter: str = "") -> None:
        """Errors: InputError for a header that cannot be used."""
        super().__init__(content)
        self._consumed = 0  # bytes that the csv module has seen, of those that wait
        self._row: list[bytes] = []  # the lines of the row that it reads
        self._is_exhausted = False
        csv.field_size_limit(4 * max_line_bytes)
        content.fill(BLOCK_BYTES)
        self._delimiter = delimiter or _guess(bytes(content.waiting[:BLOCK_BYTES]).partition(b"\n")[0])
        columns = self._read_header()
        self._builder = Builder(columns, mapping)
        self._cells = [
            _converter(column, target, mapping)
            for column, target in zip(columns, self._builder.targets, strict=True)
        ]

    def read(self, until: int | None) -> Chunk | None:
        content = self._content
        size = PIECE_BYTES if until is None else until - content.position
        bodies: list[bytes | Unreadable] = []
        lines: list[int] = []
        line, done, built = content.line, 0, 0
        rows = self._rows()
        # What is built may be many times what is read: each row gets the header's names.
        while done < size and (until is not None or (len(bodies) < PIECE_ROWS and built < PIECE_BYTES)):
            row = next(rows, None)
            if row is None:
                break
            if row != []:
                event = self._event(row)
                if isinstance(event, Unreadable) and until is None and not self._is_finished():
                    if done:  # it comes next, by itself
                        break
                    return self._behind_rows(event)
                bodies.append(event)
                lines.append(line)
                built += 0 if isinstance(event, Unreadable) else len(event)
            done = self._consumed
            line += sum(part.count(b"\n") for part in self._row)
        if not done:
            return self._behind_rows()
        content.take(done)
        content.line = line
        return Chunk(bodies, lines, content.mark)

    def _read_header(self) -> list[str]:
        rows = self._rows()
        row = next(rows, None)
        while row == []:
            row = next(rows, None)
        if not isinstance(row, list):
            raise InputError(
                "the CSV has no header" if row is None else f"the header cannot be read: {row.reason}"
            )
        self._content.line += self._content.take(self._consumed).count(b"\n")
        if any("\udc80" <= character <= "\udcff" or character == "\0" for name in row for character in name):
            likely = "utf-16" if any("\0" in name for name in row) else "cp1252"
            raise InputError(
                f"the header is not UTF-8; name the file's encoding: --encoding {likely}, for example"
            )
        names = [name.strip() or f"column_{at}" for at, name in enumerate(row, 1)]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"the header names {', '.join(double)} more than once; give each column its own name"
            )
        return names

    def _rows(self) -> Iterator[list[str] | Unreadable]:
        """Rows from the bytes that wait; `_row` and `_consumed` tell what the last one was made of."""
        self._consumed, self._is_exhausted = 0, False
        reader = csv.reader(self._lines(), delimiter=self._delimiter)
        while True:
            self._row = []
            try:
                row: list[str] | Unreadable = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = Unreadable(f"no CSV: {error}", b"".join(self._row)[:BLOCK_BYTES])
            if self._is_exhausted:  # it wanted another line
                if self._content.is_cut_off:
                    return
                row = Unreadable("a quoted cell has no end", b"".join(self._row)[:BLOCK_BYTES])
            yield row

    def _is_finished(self) -> bool:
        """Does the row that was read last end with its line, or may the rest of it be missing?"""
        return not self._is_exhausted and self._row[-1].endswith(b"\n")

    def _lines(self) -> Iterator[str]:
        content, start = self._content, 0
        while True:
            size = BLOCK_BYTES
            while True:
                has_all = content.fill(start + size)
                end = content.waiting.rfind(b"\n", start, start + size) + 1
                if not has_all and not content.is_cut_off:
                    end = len(content.waiting)
                if end > start or not has_all:
                    break
                if size > MAX_LINE_BYTES:
                    raise too_long(content.line)
                size += BLOCK_BYTES
            if end <= start:
                self._is_exhausted = True
                return
            block = bytes(memoryview(content.waiting)[start:end])
            if not content.position and not start:
                block, self._consumed = (
                    block.removeprefix(UTF8_MARK),
                    len(block) - len(block.removeprefix(UTF8_MARK)),
                )
            start = end
            for line in io.BytesIO(block):
                self._consumed += len(line)
                self._row.append(line)
                yield line.decode("utf-8", "surrogateescape")

    def _event(self, row: list[str] | Unreadable) -> JsonBytes | Unreadable:
        if isinstance(row, Unreadable):
            return row
        if len(row) != len(self._cells):
            reason = f"the row has {len(row)} cells, the header {len(self._cells)}"
            return Unreadable(reason, b"".join(self._row))
        try:
            return self._builder.build([make(cell) for make, cell in zip(self._cells, row, strict=True)])
        except UnicodeEncodeError:
            reason = "the row is not UTF-8; if the file has another encoding, name it with --encoding"
            return Unreadable(reason, b"".join(self._row))


def _guess(header: bytes) -> str:
    """The comma, unless the header has none and another delimiter."""
    return next((one for one in DELIMITERS if one.encode() in header), ",")


def _converter(column: str, target: str, mapping: Mapping) -> Callable[[str], JsonBytes | None]:
    if not target:
        return lambda _: None
    if column == mapping.timestamp_from:
        return lambda cell: as_timestamp(encode(cell), mapping.timestamp_unit) if cell else None
    return _text if mapping.is_text(column, target) else _value


def _text(cell: str) -> JsonBytes | None:
    return encode(cell) if cell else None


def _value(cell: str) -> JsonBytes | None:
    if not cell:
        return None
    if cell[0] in _FIRST:
        if cell in _WORDS:
            return _WORDS[cell]
        if _NUMBER.fullmatch(cell):
            return cell.encode()
    return encode(cell)
