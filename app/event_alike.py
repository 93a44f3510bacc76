"""Events that all look like the first of them, read with a type made for that look. Pure.

A dict for each event, its names and the types of its values, all of which are the same a hundred times, took
half of what the rules of a batch cost. So the first event is read as `app.event` reads it, and then all of
them at once, as one JSON array, by a decoder that takes only its names with values of its types. Limits of
single values stand in those types, and a column is made only where somebody must see the values. It is
narrower than `app.event` and decides nothing: where it refuses, `app.event_columns` reads the events its own
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Annotated

import msgspec

from app.event import (
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_STRING_BYTES,
    MIN_INTEGER,
    BrokenRule,
    Fields,
    read_shape,
)
from app.event_column_rules import Column

MAX_LOOKS = 128  # remembered by this process
MAX_FIELDS = 64  # more are rare, and their type is large

# Narrower than the limits, which are of bytes and of 64 bits without a sign: the decoder knows no such.
_Text = Annotated[str, msgspec.Meta(max_length=MAX_STRING_BYTES // 4)]
_Integer = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=2**63 - 1)]
# What JSON may hold where the first event has this. One type for numbers: 20 stands beside 19.99.
_TYPES: dict[type, object] = {
    str: _Text,
    bool: bool,
    int: _Integer | float,
    float: _Integer | float,
    list: Annotated[list[_Text | _Integer | float | bool], msgspec.Meta(max_length=MAX_ARRAY_ITEMS)],
}
_LIMITED: dict[str, object] = {
    "customer_identifier": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOMER_CHARACTERS)],
    "event_id": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID_CHARACTERS)],
}
_BEGIN = ord("{")

Value = Callable[[object], object]


class Look(msgspec.Struct, frozen=True):
    """What names and types alone say of events. `decode`: a JSON array -> events; `values`: -> their fields.

    `strings` are the names of those fields but for `times`, of which there is one or none; `field_paths` are
    the custom fields.
    """

    decode: Callable[[bytes], list[object]]
    values: dict[str, Value]
    times: tuple[str, ...]
    strings: tuple[str, ...]
    arrays: tuple[str, ...]
    field_paths: tuple[str, ...]


class Columns(Mapping[str, Column]):
    """For each name the values of all events; made when they are asked for, since few are."""

    def __init__(self, look: Look, events: list[object]) -> None:
        self.look = look
        self.events = len(events)
        self._events = events
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = list(map(self.look.values[name], self._events))
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.look.values)

    def __len__(self) -> int:
        return len(self.look.values)


def read_alike(first: Fields, bodies: Sequence[bytes | memoryview]) -> Columns | None:
    """`decode_alike` for events that may be anything but for `first`, which is the first one's content."""
    # No string holds a line break, so each body begins outside of any; and with a brace, which begins an
    # event, since these hold no object. As many events as bodies: each body is one of them, whole.
    columns = decode_alike(first, b"[%b]" % b",\n".join(bodies))
    if columns is None or columns.events != len(bodies) or set(map(itemgetter(0), bodies)) != {_BEGIN}:
        return None
    return columns


def decode_alike(first: Fields, array: bytes) -> Columns | None:
    """The columns of a JSON array of events that look like `first`: all of its names, values of its types.

    Names and types are good; customers, event ids, numbers, strings and arrays are inside their limits. A
    name that is repeated in one event is not noticed. None when the events do not look alike.
    """
    if len(first) > MAX_FIELDS:
        return None
    try:
        look = _reader(tuple(first), tuple(map(type, first.values())))
        return Columns(look, look.decode(array))
    except (BrokenRule, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@lru_cache(MAX_LOOKS)
def _reader(names: tuple[str, ...], kinds: tuple[type, ...]) -> Look:
    """Errors: BrokenRule where events of this look are not good, or not for here.

    What is refused is not remembered: its names may be of any length.
    """
    if not _TYPES.keys() >= set(kinds):
        raise BrokenRule
    shape = read_shape(names)
    strings = [name for name, kind in zip(names, kinds, strict=True) if kind is str]
    if not {"event_name", *shape.texts}.issubset(strings):
        raise BrokenRule
    if "metric_value" in names and kinds[names.index("metric_value")] not in (int, float):
        raise BrokenRule
    fields = [
        (f"f{number}", _LIMITED.get(name, _TYPES[kind]), msgspec.field(name=name))
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    alike = msgspec.defstruct("Alike", fields, forbid_unknown_fields=True, gc=False)
    return Look(
        msgspec.json.Decoder(list[alike]).decode,  # type: ignore[valid-type]
        {name: attrgetter(f"f{number}") for number, name in enumerate(names)},
        tuple(name for name in strings if name == "timestamp"),
        tuple(name for name in strings if name != "timestamp"),
        tuple(name for name, kind in zip(names, kinds, strict=True) if kind is list),
        shape.field_paths,
    )
