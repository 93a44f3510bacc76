"""Rows of an export -> Parquet, a row group at a time. Needs pyarrow (the extra `parquet`); knows no store.

The envelope's fields are typed columns, and so is each custom field, by the types that its values have:

    whole numbers                        int64; decimal128(20, 0) where one is 2^63 or more
    numbers, some with a fraction        double
    strings, booleans                    string, bool
    arrays of one of these               list<…>
    anything else, mixed                 string: strings as they are, other values as JSON text

The last column, `custom_fields`, is the JSON object of all custom fields, digit for digit as the client sent
them: what a column cannot tell (a null from nothing, `1` from `"1"` in a mixed one, the digits of a large
number among fractions, an empty object) stands there. So nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from app.export_sql import NAMES

if TYPE_CHECKING:
    import pyarrow as pa

Row = Sequence[object]
CUSTOM_FIELDS = "custom_fields"
GROUP_ROWS = 65_536
GROUP_BYTES = 16 * 1024 * 1024  # of a row group in memory, before it is compressed
MAX_COLUMNS = 500  # of custom fields; each costs memory in every row group, and the file's end lists them all
_TIMES = frozenset(("event_time", "time_recorded"))
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode
_ENVELOPE = frozenset(NAMES)


class ParquetMissing(Exception):
    """pyarrow is not installed."""


class _Pieces:
    """A file for pyarrow to write to, from which what was written is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, piece: Any) -> int:
        content = bytes(piece)
        self._pieces.append(content)
        self._size += len(content)
        return len(content)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class Parquet:
    """`types`: the custom fields by the engine's names of their types. Errors: ParquetMissing."""

    def __init__(self, types: Mapping[str, set[str]]) -> None:
        try:
            import pyarrow as arrow  # noqa: PLC0415  (the extra `parquet`)
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            raise ParquetMissing from None
        self._arrow = arrow
        paths = [path for path in sorted(types) if path != CUSTOM_FIELDS][:MAX_COLUMNS]
        self._custom = [(path, *_column(arrow, types[path])) for path in paths]
        self._schema = arrow.schema(
            [
                *((name, self._envelope_type(name)) for name in NAMES),
                *((path, type_) for path, type_, _ in self._custom),
                (CUSTOM_FIELDS, arrow.string()),
            ]
        )
        self._file = _Pieces()
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._group: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def add(self, rows: Sequence[Row]) -> bytes:
        """What of the file is ready by now, with `rows` behind those before."""
        for start in range(0, len(rows), self._step()):
            batch = self._batch(rows[start : start + self._step()])
            self._group.append(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes
            if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._write_group()
        return self._file.take()

    def end(self) -> bytes:
        """The rest of the file."""
        if self._group:
            self._write_group()
        self._writer.close()
        return self._file.take()

    def _step(self) -> int:
        """So many rows are turned at once that those of a wide table do not exceed a row group."""
        return max(64, 500_000 // len(self._schema))

    def _write_group(self) -> None:
        self._writer.write_table(
            self._arrow.Table.from_batches(self._group, self._schema), row_group_size=GROUP_ROWS
        )
        self._group, self._rows, self._bytes = [], 0, 0

    def _envelope_type(self, name: str) -> Any:
        if name in _TIMES:
            return self._arrow.timestamp("ms", tz="UTC")
        return self._arrow.bool_() if name == "is_bot" else self._arrow.string()

    def _batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        arrow = self._arrow
        columns: list[Any] = []
        for index, name in enumerate(NAMES):
            values = [row[index] for row in rows]
            if name == "event_time":  # ISO 8601 ending in Z
                texts = arrow.array([str(value)[:-1] for value in values], arrow.string())
                columns.append(texts.cast(arrow.timestamp("ms")).cast(arrow.timestamp("ms", tz="UTC")))
            else:
                columns.append(arrow.array(values, self._schema.field(index).type))
        bodies = [_BODY.decode(str(row[-1])) for row in rows]
        flat = [_flat(body) for body in bodies]
        for path, type_, read in self._custom:
            columns.append(arrow.array([read(event.get(path)) for event in flat], type_))
        customs = [
            _ENCODE({name: value for name, value in body.items() if name not in _ENVELOPE}).decode()
            for body in bodies
        ]
        columns.append(arrow.array(customs, arrow.string()))
        return arrow.RecordBatch.from_arrays(columns, schema=self._schema)


def _flat(body: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    flat: dict[str, msgspec.Raw] = {}
    for name, value in body.items():
        if bytes(value).startswith(b"{"):
            flat |= {f"{name}.{child}": inner for child, inner in _BODY.decode(value).items()}
        else:
            flat[name] = value
    return flat


Read = Callable[[msgspec.Raw | None], object]


def _column(arrow: Any, types: set[str]) -> tuple[Any, Read]:
    """The type of a column, and how a value is read for it: None where it is of another type, since then it
    arrived after the columns were chosen."""
    arrays = {one.removeprefix("Array(Nullable(").removesuffix("))") for one in types if one[:6] == "Array("}
    if arrays and len(arrays) == len(types):
        inner = _scalar(arrow, arrays)
        return (arrow.list_(inner[0]), _list_of(inner[1])) if inner else (arrow.string(), _text)
    return _scalar(arrow, types) or (arrow.string(), _text)


def _scalar(arrow: Any, types: set[str]) -> tuple[Any, Read] | None:
    """None where values are of several kinds, or of one that is no column."""
    if types == {"String"}:
        return arrow.string(), _only(str)
    if types == {"Bool"}:
        return arrow.bool_(), _only(bool)
    if types == {"Int64"}:
        return arrow.int64(), _only(int)
    if types <= {"Int64", "UInt64"}:
        return arrow.decimal128(20, 0), _decimal
    if types <= {"Int64", "UInt64", "Float64"}:
        return arrow.float64(), _real
    return None


def _only(kind: type) -> Read:
    def read(value: msgspec.Raw | None) -> object:
        decoded = _decoded(value)
        return decoded if type(decoded) is kind else None

    return read


def _decimal(value: msgspec.Raw | None) -> Decimal | None:
    decoded = _decoded(value)
    return Decimal(decoded) if type(decoded) is int else None


def _real(value: msgspec.Raw | None) -> float | None:
    decoded = _decoded(value)
    return float(decoded) if isinstance(decoded, int | float) and not isinstance(decoded, bool) else None


def _text(value: msgspec.Raw | None) -> str | None:
    decoded = _decoded(value)
    if value is None or decoded is None:
        return None
    return decoded if isinstance(decoded, str) else bytes(value).decode()


def _list_of(read: Read) -> Read:
    def read_list(value: msgspec.Raw | None) -> list[object] | None:
        if value is None or not bytes(value).startswith(b"["):
            return None
        return [read(item) for item in _ITEMS.decode(value)]

    return read_list


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def _decoded(value: msgspec.Raw | None) -> object:
    return None if value is None else msgspec.json.decode(value)
