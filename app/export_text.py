"""Rows of an export -> NDJSON or CSV. Pure.

An event is what the client sent, digit for digit, with the envelope's values laid over it: as a raw query
shows it. In CSV each custom field is a column, and one inside an object is `parent.child`.
Next reader: `app.export_writers`, which chooses among these and `app.export_parquet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from app import formats
from app.export_sql import NAMES
from app.formats import Cell

Row = Sequence[object]
TIMESTAMP = "timestamp"  # the client's own text of what `event_time` says
STEP_BYTES = 256 * 1024
_ROWS: msgspec.json.Decoder[list[object]] = msgspec.json.Decoder(list[object])
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])


class UnknownField(Exception):
    """An event has a custom field that none had when the columns were chosen; they cannot grow any more."""


def rows_of(lines: bytes) -> Iterator[Sequence[Row]]:
    """The rows of a page, some hundreds at a time: what is done in one step holds up every other thread."""
    start, size = 0, len(lines)
    while start < size:
        end = lines.find(b"\n", min(start + STEP_BYTES, size - 1)) + 1 or size
        yield _ROWS.decode_lines(lines[start:end])
        start = end


def event_of(row: Row) -> dict[str, object]:
    """The event in `row`, of the columns NAMES and the body. What the client sent is still JSON text."""
    event: dict[str, object] = dict(_BODY.decode(str(row[-1])))
    event.update(zip(NAMES, row, strict=False))
    return event


def ndjson(rows: Iterable[Row]) -> bytes:
    """An event a line."""
    return formats.ndjson([event_of(row) for row in rows])


class Csv:
    """CSV with columns that are chosen once: the envelope's, the client's timestamp, the custom `paths`."""

    def __init__(self, paths: Iterable[str], *, escapes_formulas: bool) -> None:
        self._escapes_formulas = escapes_formulas
        self._columns = [*NAMES, TIMESTAMP, *sorted(paths)]
        self._known = frozenset(self._columns)

    def header(self) -> bytes:
        """The first line."""
        return formats.csv(self._columns, [], escapes_formulas=self._escapes_formulas)

    def lines(self, rows: Iterable[Row]) -> bytes:
        """An event a line. Errors: UnknownField."""
        flat = [self._flat(row) for row in rows]
        return formats.csv_rows(self._columns, flat, escapes_formulas=self._escapes_formulas)

    def _flat(self, row: Row) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        for name, value in _BODY.decode(str(row[-1])).items():
            if bytes(value).startswith(b"{"):
                cells |= {f"{name}.{child}": inner for child, inner in _BODY.decode(value).items()}
            else:
                cells[name] = value
        for name, cell in zip(NAMES, row, strict=False):
            if cell is None or isinstance(cell, str | int):
                cells[name] = cell
        if not self._known.issuperset(cells):
            for name in cells.keys() - self._known:
                found = cells[name]
                if isinstance(found, msgspec.Raw) and bytes(found) != b"null":
                    raise UnknownField(name)
        return cells
