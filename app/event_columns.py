"""Many events at once, by column: the same verdicts as `app.event`, for a fraction of the time. Pure.

Events of one batch mostly look alike. They are grouped by the names that they hold, and each field of a
group is checked as a column, by loops that run in C; what the names alone say, `app.event.read_shape` knows.
A column may only prove that all of its values are good. Whatever it cannot prove goes to `read_event`, event
by event, which alone refuses: so this module can be slow where it is surprised, never wrong (a property test
holds the two together).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import cast

import msgspec

from app.event import (
    EVENT_NAME,
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_INTEGER,
    MAX_REMEMBERED_NAMES,
    MAX_STRING_BYTES,
    MIN_INTEGER,
    BrokenRule,
    Fields,
    Names,
    is_array,
    read_event,
    read_shape,
)
from app.timestamp import parse_timestamp

FEW = 4  # fewer events of one shape are not worth their columns

Body = bytes | memoryview
Column = Sequence[object]
Kinds = set[type]
_Group = tuple[list[int], list[tuple[object, ...]]]  # numbers, values

_decode = msgspec.json.Decoder(Fields).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PLAIN: Kinds = {str, bool, float, type(None)}  # always good: strings are bounded by the event's bytes
_TEXT_LIMITS = {"customer_identifier": MAX_CUSTOMER_CHARACTERS, "event_id": MAX_EVENT_ID_CHARACTERS}
_DIGITS_TO_0 = bytes(ord("0") if byte in b"123456789" else byte for byte in range(256))
_CLOCKS = ["00:00", "00:00:00", *("00:00:00." + "0" * digits for digits in range(1, 10))]
_ZONES = ["", "Z", "+00:00", "-00:00", "+0000", "-0000"]
# What a timestamp may look like, each digit written as 0.
_TIMESTAMPS = {b"0000-00-00", *(f"0000-00-00T{clock}{zone}".encode() for clock in _CLOCKS for zone in _ZONES)}


class Good(msgspec.Struct):
    """Good events whose fields have the same names.

    `positions` are what they are called by; `event_ids` is empty where the events have none.
    """

    positions: Sequence[int]
    event_names: Sequence[str]
    event_ids: Sequence[str]
    field_paths: tuple[str, ...]


class _Doubt(Exception):
    """These columns do not prove that all of the events are good."""


def read_events(bodies: Sequence[Body], positions: Sequence[int]) -> tuple[list[Good], list[int]]:
    """The good ones of `bodies`, as `app.event.read_event` finds them, and the positions of the others."""
    good: list[Good] = []
    refused: list[int] = []
    odd: list[int] = []
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
    for names, group in groups.items():
        for numbers, rows in _split_by_children(group):
            try:
                made = _prove(names, rows, [bodies[number] for number in numbers])
            except (_Doubt, BrokenRule):
                odd += numbers
            else:
                made.positions = [positions[number] for number in numbers]
                good.append(made)
    if odd:
        called = [positions[number] for number in odd]
        found = read_singly([bodies[number] for number in odd], called)
        good += found
        refused += set(called).difference(at for one in found for at in one.positions)
    return good, refused


def read_singly(bodies: Iterable[Body], positions: Iterable[int]) -> list[Good]:
    """The good ones of `bodies`, each for itself."""
    good: list[Good] = []
    for body, position in zip(bodies, positions, strict=True):
        try:
            event = read_event(bytes(body))
        except BrokenRule:
            continue
        ids = () if event.event_id is None else (event.event_id,)
        good.append(Good((position,), (event.event_name,), ids, event.field_paths))
    return good


def _split_by_children(group: _Group) -> Iterator[_Group]:
    """Groups in which each field is an object in all events or in none, and then with the same names."""
    numbers, rows = group
    nested = [
        place
        for place, column in enumerate(zip(*rows, strict=True))
        if len(rows) < FEW or dict in set(map(type, column))
    ]
    if not nested:
        yield group
        return
    parts: dict[object, _Group] = {}
    for number, row in zip(numbers, rows, strict=True):
        values = [row[place] for place in nested]
        children = tuple(tuple(value) if type(value) is dict else None for value in values)
        part = parts.setdefault(children, ([], []))
        part[0].append(number)
        part[1].append(row)
    yield from parts.values()


def _prove(names: tuple[str, ...], rows: list[tuple[object, ...]], bodies: list[Body]) -> Good:
    """The good events of these rows. Raises _Doubt or BrokenRule unless every one is certainly good."""
    if len(rows) < FEW:
        raise _Doubt
    text = b"".join(bodies)
    if len(text) > MAX_STRING_BYTES and max(map(len, bodies)) > MAX_STRING_BYTES:
        raise _Doubt  # a string may be too long
    fields: dict[str, Column] = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns: list[tuple[str, Column, Kinds]] = []
    all_names: Names = names
    for name, column in fields.items():
        if type(column[0]) is dict:
            all_names += (name, tuple(column[0]))
            objects = cast("tuple[Fields, ...]", column)
            columns += [
                ("", child, set(map(type, child))) for child in zip(*map(dict.values, objects), strict=True)
            ]
        else:
            columns.append((name, column, set(map(type, column))))
    read = read_shape if len(all_names) <= MAX_REMEMBERED_NAMES else read_shape.__wrapped__
    shape = read(all_names)
    for name, column, kinds in columns:
        if name in shape.texts:
            if kinds != {str}:
                raise _Doubt
            _check_text(name, cast("Sequence[str]", column))
        elif name == "metric_value" and not kinds <= {int, float}:
            raise _Doubt
        elif not kinds <= _PLAIN:
            _check_leaves(column, kinds)
    if "event_name" not in fields:
        raise _Doubt
    members = len(rows) * (len(names) + sum(len(below) for below in all_names if type(below) is tuple))
    _check_repeated(text, members, columns)
    texts = cast("dict[str, Sequence[str]]", fields)
    return Good((), texts["event_name"], texts.get("event_id", ()), shape.field_paths)


def _check_text(name: str, column: Sequence[str]) -> None:
    """The fields that the contract knows."""
    if name == "timestamp":
        _check_timestamps(column)
    elif name == "event_name":
        if not all(map(EVENT_NAME.fullmatch, set(column))):
            raise _Doubt
    elif limit := _TEXT_LIMITS.get(name):
        sizes = set(map(len, column))
        if min(sizes) < 1 or max(sizes) > limit:
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


def _check_leaves(column: Column, kinds: Kinds) -> None:
    """Integers and arrays; nothing else has limits here."""
    if int in kinds:
        numbers = column if len(kinds) == 1 else [value for value in column if type(value) is int]
        if min(numbers) < MIN_INTEGER or max(numbers) > MAX_INTEGER:  # type: ignore[type-var, operator]
            raise _Doubt
    if list in kinds:
        arrays = cast("list[list[str | int | float | bool]]", [v for v in column if type(v) is list])
        of_items = set(map(type, chain.from_iterable(arrays)))
        if max(map(len, arrays)) > MAX_ARRAY_ITEMS:
            raise _Doubt
        if (len(of_items) > 1 or int in of_items) and not all(map(is_array, arrays)):
            raise _Doubt


def _check_repeated(text: bytes, members: int, columns: list[tuple[str, Column, Kinds]]) -> None:
    """A repeated name is lost by the decoder, but its colon is still there."""
    extra = text.count(b":") - members
    if extra:
        strings = (cast("Sequence[str]", column) for _, column, kinds in columns if kinds == {str})
        extra -= sum("".join(column).count(":") for column in strings)
    if extra:
        extra -= sum(_colons(column) for _, column, kinds in columns if kinds != {str})
    # A colon in a string is one in the bytes, unless it is written as \u003a.
    if extra or (b"\\" in text and b"\\u003" in text):
        raise _Doubt


def _colons(column: Column) -> int:
    strings = [value for value in column if type(value) is str]
    arrays = [value for value in column if type(value) is list]
    in_arrays = [item for item in chain.from_iterable(arrays) if type(item) is str]
    return "".join((*strings, *in_arrays)).count(":")
