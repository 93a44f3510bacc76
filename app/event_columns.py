"""Many events at once, by column: the same verdicts as `app.event`, for a fraction of the time. Pure.

Events of one batch mostly look alike. They are grouped by the names that they hold, and each field of a
group is checked as a column, by loops that run in C. A column may only prove that all of its values are
good. Whatever it cannot prove goes to `read_event`, event by event, which alone refuses: so this module
can be slow where it is surprised, never wrong (a property test holds the two together).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Protocol

import msgspec

from app.event import (
    ENVELOPE,
    EVENT_NAME,
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_FIELDS,
    MAX_INTEGER,
    MAX_STRING_BYTES,
    METRIC,
    MIN_INTEGER,
    RESERVED,
    BrokenRule,
    Fields,
    is_array,
    is_field_path,
    read_event,
)
from app.timestamp import parse_timestamp

FEW = 4  # fewer events of one shape are not worth their columns

_decode = msgspec.json.Decoder(Fields).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PLAIN = {str, bool, float, type(None)}  # always good: strings are bounded by the event's bytes
_TEXT_LIMITS = {"customer_identifier": MAX_CUSTOMER_CHARACTERS, "event_id": MAX_EVENT_ID_CHARACTERS}
_DIGITS_TO_0 = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_FRACTIONS = ["", *(".0" + "0" * more for more in range(9))]
_CLOCKS = ["00:00", *(f"00:00:00{fraction}" for fraction in _FRACTIONS)]
_ZONES = ["", "Z", "+00:00", "-00:00", "+0000", "-0000"]
# What a timestamp may look like, each digit written as 0.
_TIMESTAMPS = {b"0000-00-00", *(f"0000-00-00T{clock}{zone}".encode() for clock in _CLOCKS for zone in _ZONES)}


class Shape(msgspec.Struct):
    """Good events whose fields have the same names.

    `event_ids` is empty where the events have none. `field_paths` are
    those of all of them.
    """

    positions: Sequence[int]
    event_names: Sequence[str]
    event_ids: Sequence[str]
    field_paths: tuple[str, ...]


class Known(Protocol):
    """Names that were checked before: those of the project (`app.names.KnownNames`)."""

    event_names: set[str]
    field_paths: set[str]


class _Doubt(Exception):
    """These columns do not prove that all of the events are good."""


Body = bytes | memoryview
Column = tuple[object, ...]
_Group = tuple[list[int], list[Column]]  # numbers, values


def read_events(
    bodies: Sequence[Body], positions: Sequence[int], known: Known
) -> tuple[list[Shape], list[int]]:
    """The good ones of `bodies`, as `app.event.read_event` finds them, and the positions of the others.

    `positions` are what the events are called by.
    """
    shapes: list[Shape] = []
    refused: list[int] = []
    single: list[int] = []
    groups: dict[tuple[str, ...], _Group] = {}
    for number, body in enumerate(bodies):
        try:
            fields = _decode(body)
        except _MALFORMED:
            refused.append(positions[number])
            continue
        names = tuple(fields)
        group = groups.get(names)
        if group is None:
            groups[names] = group = ([], [])
        group[0].append(number)
        group[1].append(tuple(fields.values()))
    for names, (numbers, rows) in groups.items():
        if len(rows) < FEW:
            single += numbers
            continue
        try:
            shape = _prove(names, rows, [bodies[number] for number in numbers], known)
        except _Doubt:
            single += numbers
        else:
            shape.positions = [positions[number] for number in numbers]
            shapes.append(shape)
    found = read_singly(
        [positions[number] for number in single], [bodies[number] for number in single], known
    )
    if single:
        good = {at for shape in found for at in shape.positions}
        refused += [positions[number] for number in single if positions[number] not in good]
    return shapes + found, refused


def read_singly(positions: Sequence[int], bodies: Sequence[Body], known: Known) -> list[Shape]:
    """The good ones of `bodies`, each as a shape of its own."""
    shapes: list[Shape] = []
    for position, body in zip(positions, bodies, strict=True):
        try:
            event = read_event(bytes(body), known.field_paths)
        except BrokenRule:
            continue
        ids = () if event.event_id is None else (event.event_id,)
        shapes.append(Shape((position,), (event.event_name,), ids, event.field_paths))
    return shapes


def _prove(names: tuple[str, ...], rows: list[Column], bodies: list[Body], known: Known) -> Shape:
    """The shape of these events. Raises _Doubt unless every one of them is certainly good."""
    text = b"".join(bodies)
    if len(text) > MAX_STRING_BYTES and max(map(len, bodies)) > MAX_STRING_BYTES:
        raise _Doubt  # a string may be too long
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    event_names = columns.get("event_name", ())
    if set(map(type, event_names)) != {str}:
        raise _Doubt
    if not known.event_names.issuperset(event_names) and not all(map(EVENT_NAME.fullmatch, event_names)):
        raise _Doubt
    children: dict[str, set[str]] = {}
    members = len(names) * len(rows)
    for name, column in columns.items():
        members += _check_column(name, column, children)
    paths = tuple(_paths(names, children))
    _check_names(names, paths, children, known)
    _check_repeated(text, members, columns)
    return Shape((), event_names, columns.get("event_id", ()), paths)


def _check_column(name: str, column: Column, children: dict[str, set[str]]) -> int:
    """Check one field's values. Returns how many names the objects among them hold."""
    kinds = set(map(type, column))
    if name in ENVELOPE:
        if kinds != {str}:
            raise _Doubt
        if name == "timestamp":
            _check_timestamps(column)  # type: ignore[arg-type]
        elif limit := _TEXT_LIMITS.get(name):
            sizes = set(map(len, column))  # type: ignore[arg-type]
            if min(sizes) < 1 or max(sizes) > limit:
                raise _Doubt
        return 0
    if name in METRIC and not kinds <= ({str} if name == "metric_name" else {int, float}):
        raise _Doubt
    if kinds <= _PLAIN:
        return 0
    if dict not in kinds:
        _check_leaves(column, kinds)
        return 0
    objects = [value for value in column if type(value) is dict]
    children[name] = set().union(*objects)
    if not all(objects):
        raise _Doubt  # an empty one is a field of its own
    leaves = (*chain.from_iterable(map(dict.values, objects)), *(v for v in column if type(v) is not dict))
    _check_leaves(leaves, set(map(type, leaves)))
    return sum(map(len, objects))


def _check_leaves(column: Column, kinds: set[type]) -> None:
    if int in kinds:
        numbers = [value for value in column if type(value) is int] if len(kinds) > 1 else column
        if min(numbers) < MIN_INTEGER or max(numbers) > MAX_INTEGER:  # type: ignore[type-var, operator]
            raise _Doubt
    if list in kinds:
        arrays = [value for value in column if type(value) is list] if len(kinds) > 1 else column
        if max(map(len, arrays)) > MAX_ARRAY_ITEMS:  # type: ignore[arg-type]
            raise _Doubt
        of_items = set(map(type, chain.from_iterable(arrays)))  # type: ignore[arg-type]
        if (len(of_items) > 1 or int in of_items) and not all(map(is_array, arrays)):  # type: ignore[arg-type]
            raise _Doubt


def _check_timestamps(column: Sequence[str]) -> None:
    joined = "\n".join(column)
    looks = set(joined.encode().translate(_DIGITS_TO_0).split(b"\n"))
    try:
        if not looks <= _TIMESTAMPS or min(column) < "1971" or max(column) >= "2100" or "T24" in joined:
            for text in column:
                parse_timestamp(text)
            return
        for _ in map(datetime.fromisoformat, column):  # is it a day, a time, an offset?
            pass
    except ValueError:
        raise _Doubt from None
    has_offset = any(b"+" in look or b"-" in look[10:] for look in looks)
    if has_offset and any(text[-2:] > "59" for text in column):
        raise _Doubt  # it would take an offset of 99 minutes


def _paths(names: tuple[str, ...], children: dict[str, set[str]]) -> list[str]:
    paths: list[str] = []
    for name in names:
        if name in children:
            paths += [f"{name}.{child}" for child in sorted(children[name])]
        elif name not in ENVELOPE:
            paths.append(name)
    return paths


def _check_names(
    names: tuple[str, ...], paths: tuple[str, ...], children: dict[str, set[str]], known: Known
) -> None:
    if len(names) > MAX_FIELDS or len(paths) > MAX_FIELDS or not RESERVED.isdisjoint(names):
        raise _Doubt
    if not METRIC.isdisjoint(children) or any("." in name for name in names):
        raise _Doubt
    if not known.field_paths.issuperset(paths) and not all(map(is_field_path, paths)):
        raise _Doubt


def _check_repeated(text: bytes, members: int, columns: dict[str, Column]) -> None:
    """A repeated name is lost by the decoder, but its colon is still there."""
    extra = text.count(b":") - members
    if extra and "timestamp" in columns:
        extra -= "".join(columns["timestamp"]).count(":")  # type: ignore[arg-type]
    if extra:
        extra -= sum(map(_colons, (column for name, column in columns.items() if name != "timestamp")))
    # Only as \u003a can a colon stand in a string without being one here.
    if extra or (b"\\" in text and b"\\u003" in text):
        raise _Doubt


def _colons(column: Column) -> int:
    """In the strings of a column, nested ones too."""
    kinds = set(map(type, column))
    if kinds == {str}:
        return "".join(column).count(":")  # type: ignore[arg-type]
    total = sum(value.count(":") for value in column if type(value) is str)
    if list in kinds:
        total += _colons(tuple(chain.from_iterable(value for value in column if type(value) is list)))
    if dict in kinds:
        total += _colons(
            tuple(chain.from_iterable(value.values() for value in column if type(value) is dict))
        )
    return total
