"""Parquet: typed columns, read batch by batch. Needs pyarrow, which the embedded store brings along.

Its directory stands at the end, so the whole file must be there: what comes through a pipe, or packed, is
kept in a temporary file first. Positions and lines are numbers of rows, the digest is one of the whole file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from workers.import_content import Chunk, InputError, Mark, Unreadable
from workers.import_mapping import Builder, JsonBytes, Mapping, as_text, as_timestamp, encode
from workers.import_ndjson import PIECE_BYTES, PIECE_ROWS

MAGIC = b"PAR1"
COPY_BYTES = 1024 * 1024
BATCH_ROWS = 1000  # in memory as columns
MENDED = "mended, it is another file, and all of it is imported, also rows that are in and have no event_id"
BROKEN = object()  # a value that Python cannot hold, such as a time beyond the year 9999


def keep(stream: BinaryIO) -> BinaryIO:
    """A temporary file with all of `stream`, gone with the process. Errors: InputError for want of room."""
    with contextlib.ExitStack() as files:
        kept = files.enter_context(tempfile.TemporaryFile())
        try:
            shutil.copyfileobj(stream, kept, COPY_BYTES)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise InputError(
                f"Parquet must be complete to be read, and {tempfile.gettempdir()} has no room for it: name "
                "another directory with TMPDIR, or import from a file"
            ) from None
        files.pop_all()  # it stays open for as long as the import
    kept.seek(0)
    return cast(BinaryIO, kept)


class ParquetSource:
    """A `Source`."""

    problem = ""
    advice = ""

    def __init__(self, file: BinaryIO, mapping: Mapping, on_progress: Callable[[float], None]) -> None:
        """`on_progress` hears which share of the rows was read. Errors: InputError."""
        try:
            import pyarrow  # noqa: PLC0415
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            raise InputError("reading Parquet needs pyarrow: pip install 'eventbunker[parquet]'") from None
        self._arrow = pyarrow
        self._on_progress = on_progress
        self._digest = hashlib.sha256()
        try:
            while block := file.read(COPY_BYTES):
                self._digest.update(block)
            # Arrow's own file: its threads would let go of one of Python's after Python has ended, and abort.
            own = pyarrow.OSFile(f"/dev/fd/{file.fileno()}")
            self._file = parquet.ParquetFile(own)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"this Parquet file cannot be read: {str(error)[:300]}") from None
        self._rows = self._file.metadata.num_rows
        self._position = 0
        self._batches = self._read_batches(0)
        self._batch: Any = None  # the rows that were read and not built
        self._built: deque[bytes | Unreadable] = deque()  # events that were not returned
        columns = self._flat(self._file.schema_arrow.empty_table()).column_names
        self._builder = Builder(columns, mapping)
        self._cells = [
            _converter(column, target, mapping)
            for column, target in zip(columns, self._builder.targets, strict=True)
        ]

    @property
    def mark(self) -> Mark:
        digest = self.digest_at(self._position)
        return Mark(self._position, self._position + 1, digest or "")

    def digest_at(self, position: int) -> str | None:
        if position > self._rows:
            return None
        digest = self._digest.copy()
        digest.update(b"%d" % position)
        return digest.hexdigest()

    def skip_to(self, position: int) -> None:
        self._position = min(position, self._rows)
        self._batch, self._batches = None, self._read_batches(self._position)
        self._built.clear()

    def read(self, until: int | None) -> Chunk | None:
        limit = PIECE_ROWS if until is None else until - self._position
        bodies: list[bytes | Unreadable] = []
        size = 0
        try:
            while len(bodies) < limit and (until is not None or size < PIECE_BYTES) and self._build():
                body = self._built.popleft()
                bodies.append(body)
                size += 0 if isinstance(body, Unreadable) else len(body)
        except (self._arrow.ArrowException, OSError) as error:
            self.problem = f"the Parquet file is damaged: {str(error)[:300]}"
            self.advice = MENDED
            self._batch, self._batches = None, iter(())
        if not bodies:
            return None
        lines = range(self._position + 1, self._position + 1 + len(bodies))
        self._position += len(bodies)
        self._on_progress(self._position / self._rows)
        return Chunk(bodies, lines, self.mark)

    def _build(self) -> bool:
        """Have an event, and the next ones of about a piece; False at the end."""
        while not self._built:
            while self._batch is None or not self._batch.num_rows:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    return False
            rows = max(1, self._batch.num_rows * PIECE_BYTES // max(PIECE_BYTES, self._batch.nbytes))
            some, self._batch = self._batch.slice(0, rows), self._batch.slice(rows)
            self._built.extend(self._events(self._arrow.Table.from_batches([some])))
        return True

    def _read_batches(self, position: int) -> Iterator[Any]:
        """Batches from a row on. Whole groups before it are not read at all."""
        metadata, group = self._file.metadata, 0
        while group < metadata.num_row_groups and position >= metadata.row_group(group).num_rows:
            position -= metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        for batch in self._file.iter_batches(BATCH_ROWS, row_groups=groups) if groups else ():
            if position < batch.num_rows:
                yield batch.slice(position)
            position = max(0, position - batch.num_rows)

    def _flat(self, table: Any) -> Any:
        """Members of objects as columns `parent.child`; times as Python knows them."""
        types = self._arrow.types
        table = table.flatten()
        for at, field in enumerate(table.schema):
            kind = field.type
            if types.is_timestamp(kind):
                kind = self._arrow.timestamp("us", kind.tz and "UTC")
            elif types.is_time64(kind):
                kind = self._arrow.time64("us")
            elif types.is_duration(kind):
                kind = self._arrow.duration("us")
            if kind != field.type:
                table = table.set_column(at, field.name, table.column(at).cast(kind, safe=False))
        return table

    def _events(self, table: Any) -> list[bytes | Unreadable]:
        table = self._flat(table)
        columns = [
            [None] * table.num_rows if make is None else self._values(table.column(at), make)
            for at, make in enumerate(self._cells)
        ]
        return [self._event(values) for values in zip(*columns, strict=True)]

    def _values(self, column: Any, make: Callable[[Any], JsonBytes | None]) -> list[Any]:
        try:
            return [make(value) for value in column.to_pylist()]
        except (ValueError, OverflowError, TypeError, self._arrow.ArrowException):
            return [self._value(column, at, make) for at in range(len(column))]

    def _value(self, column: Any, at: int, make: Callable[[Any], JsonBytes | None]) -> object:
        try:
            return make(column[at].as_py())
        except (ValueError, OverflowError, TypeError, self._arrow.ArrowException):
            return BROKEN

    def _event(self, values: tuple[Any, ...]) -> bytes | Unreadable:
        if BROKEN in values:
            names = [
                name for name, value in zip(self._builder.targets, values, strict=True) if value is BROKEN
            ]
            return Unreadable(f"{', '.join(names)}: no value that JSON can hold", b"")
        return self._builder.build(values)


def _converter(column: str, target: str, mapping: Mapping) -> Callable[[Any], JsonBytes | None] | None:
    if not target:
        return None
    if column == mapping.timestamp_from:
        return lambda value: None if value is None else as_timestamp(encode(value), mapping.timestamp_unit)
    if mapping.is_text(column, target):
        return lambda value: None if value is None else as_text(encode(value))
    return _json


def _json(value: Any) -> JsonBytes | None:
    """JSON has no NaN and no infinity: they are left out, as missing values are."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return encode(value)
