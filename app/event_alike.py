"""Events that all look like the first of them, read with a type made for that look. Pure.

A dict for each event, its names and the types of its values, all of which are the same a hundred times, took
half of what the rules of a batch cost. So the first event is read as `app.event` reads it, and all of them by
a decoder that takes only its names with values of its types, and makes columns of them. It is narrower than
`app.event` and decides nothing: where it refuses, `app.event_columns` reads the events its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter

import msgspec

from app.event import Fields, Scalar
from app.event_column_rules import Column, Kinds

MAX_LOOKS = 128  # remembered by this process
MAX_FIELDS = 64  # more are rare, and their type is large

# What JSON may hold where the first event has this. One type for numbers: 20 stands beside 19.99.
_TYPES: dict[type, object] = {
    str: str,
    bool: bool,
    int: int | float,
    float: int | float,
    list: list[Scalar],
}
_NUMBERS: Kinds = {int, float}

Look = tuple[tuple[str, type], ...]


class _Reader(msgspec.Struct, frozen=True):
    """`columns`: an event -> its values, in the order of the names. `kinds`: None where they must be seen."""

    decode: Callable[[bytes | memoryview], object]
    columns: Callable[[object], tuple[object, ...]]
    kinds: tuple[Kinds | None, ...]


def read_alike(first: Fields, bodies: Sequence[bytes | memoryview]) -> list[tuple[Column, Kinds]] | None:
    """For each name of `first`, which is the first of `bodies`: the values of all of them, and their types.

    None when they do not look alike. A name that is repeated in one of them is not noticed.
    """
    look = tuple([(name, type(value)) for name, value in first.items()])
    if not 2 <= len(look) <= MAX_FIELDS or not all(kind in _TYPES for _, kind in look):
        return None
    reader = _reader(look)
    try:
        events = list(map(reader.decode, bodies))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    columns = zip(*map(reader.columns, events), strict=True)
    return [
        (column, set(map(type, column)) if kinds is None else kinds)
        for column, kinds in zip(columns, reader.kinds, strict=True)
    ]


@lru_cache(MAX_LOOKS)
def _reader(look: Look) -> _Reader:
    names = [f"f{number}" for number in range(len(look))]
    fields = [
        (own, _TYPES[kind], msgspec.field(name=name)) for own, (name, kind) in zip(names, look, strict=True)
    ]
    alike = msgspec.defstruct("Alike", fields, forbid_unknown_fields=True, gc=False)
    kinds = tuple(None if kind in _NUMBERS else {kind} for _, kind in look)
    return _Reader(msgspec.json.Decoder(alike).decode, attrgetter(*names), kinds)
