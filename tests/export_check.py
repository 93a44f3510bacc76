"""Is an export equal to what was sent? Each event once, each value as it was, in each format; at any size.

Events are compared by sums of digests, so that a million of them need no memory. What is compared is what the
client sent: the envelope's derived columns are tests/test_export.py's business.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

FORMATS = ("ndjson", "csv", "parquet")
Event = dict[str, Any]


class Sum:
    """Equal for two collections of events that have the same events equally often, in whatever order."""

    def __init__(self) -> None:
        self.count = 0
        self._digests = 0

    def add(self, event: Event) -> None:
        text = json.dumps(event, sort_keys=True).encode()
        self._digests += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")
        self.count += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.count, self._digests) == (other.count, other._digests)

    __hash__ = None  # type: ignore[assignment]


class Sent:
    """What was sent, told event by event."""

    def __init__(self) -> None:
        self.whole = Sum()
        self.flat = Sum()
        self._names: set[str] = set()

    def add(self, event: Event) -> None:
        self.whole.add(event)
        self.flat.add(flat(event))
        self._names |= event.keys()

    def check(self, file: Path, format_: str) -> None:
        """Errors: AssertionError where `file` has other events."""
        read = {"ndjson": self._ndjson, "csv": self._csv, "parquet": self._parquet}[format_]
        found = Sum()
        for event in read(file):
            found.add(event)
        wanted = self.flat if format_ == "csv" else self.whole
        assert found.count == wanted.count, f"{format_}: {found.count:,} events of {wanted.count:,}"
        assert found == wanted, f"{format_}: as many events as were sent, but not the same"

    def _ndjson(self, file: Path) -> Iterator[Event]:
        with file.open() as lines:
            for line in lines:
                event = json.loads(line)
                yield {name: event[name] for name in self._names & event.keys()}

    def _csv(self, file: Path) -> Iterator[Event]:
        """A cell is text; what the client left out is empty."""
        with file.open(newline="") as text:
            rows = csv.reader(text)
            names = [(i, n) for i, n in enumerate(next(rows)) if n.partition(".")[0] in self._names]
            for row in rows:
                yield {name: row[index] for index, name in names if row[index]}

    def _parquet(self, file: Path) -> Iterator[Event]:
        """From `custom_fields`, to which each typed column must be equal."""
        parquet = pyarrow.parquet.ParquetFile(file)
        typed = [name for name in parquet.schema_arrow.names if name.partition(".")[0] in self._names]
        own = ("event_name", "customer_identifier")
        for batch in parquet.iter_batches(columns=[*typed, "custom_fields"]):
            for row in batch.to_pylist():
                custom = json.loads(row["custom_fields"])
                for name in typed:
                    if name not in own:
                        assert row[name] == _value(custom, name), (name, row[name], custom)
                yield {**custom, **{name: row[name] for name in own if row[name] is not None}}


def _value(event: Event, name: str) -> Any:
    parent, _, child = name.partition(".")
    value = event.get(parent)
    return (value.get(child) if isinstance(value, dict) else None) if child else value


def flat(event: Event) -> Event:
    """As CSV has it: each value as text, objects taken apart."""
    cells: Event = {}
    for name, value in event.items():
        inside = (
            {f"{name}.{child}": inner for child, inner in value.items()} if isinstance(value, dict) else {}
        )
        for path, one in (inside or {name: value}).items():
            text = one if isinstance(one, str) else json.dumps(one, separators=(",", ":"))
            if one is not None and text:
                cells[path] = text
    return cells


def batches(events: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """So many bodies at a time."""
    some: list[bytes] = []
    for body in events:
        some.append(body)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
