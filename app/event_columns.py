"""Many events at once, by column: the same verdicts as `app.event`, for a fraction of the time. Pure.

Events of one batch mostly look alike. They are grouped by the names that they hold, and each field of a
group is checked as a column, by loops that run in C; what the names alone say, `app.event.read_shape` knows.
A column may only prove that all of its values are good. Whatever it cannot prove goes to `read_event`, event
by event, which alone refuses: so this module can be slow where it is surprised, never wrong (a property test
holds the two together).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import cast

import msgspec

from app.event import (
    MAX_REMEMBERED_NAMES,
    MAX_STRING_BYTES,
    BrokenRule,
    Fields,
    Names,
    read_event,
    read_shape,
)
from app.event_alike import Columns, decode_alike, read_alike
from app.event_column_rules import Column, Doubt, Kinds, check_items, check_leaves, check_text

FEW = 6  # fewer events of one shape are not worth their columns

Body = bytes | memoryview

_decode = msgspec.json.Decoder(Fields).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TEXT: Kinds = {str}
_OBJECT: Kinds = {dict}
_NUMBERS: Kinds = {int, float}
_PLAIN: Kinds = {str, bool, float, type(None)}  # always good: strings are bounded by the event's bytes

# Name, values and their types. The members of objects are columns without a name.
_Column = tuple[str, Column, Kinds]


class Good(msgspec.Struct):
    """Good events whose fields have the same names.

    `positions` are what they are called by; `event_ids` is empty where the events have none.
    """

    positions: Sequence[int]
    event_names: Sequence[str]
    event_ids: Sequence[str]
    field_paths: tuple[str, ...]


class _Group(msgspec.Struct):
    """Events whose fields have the same names, in the same order; decoded while they are told apart."""

    names: tuple[str, ...]
    positions: list[int]
    bodies: list[Body]
    events: list[Fields]


class _Proof(msgspec.Struct):
    """A group that is good if none of its names was repeated, and what it takes to know that."""

    group: _Group
    good: Good
    columns: list[_Column]
    members: int  # names in all of its events, those of objects included


def read_events(bodies: list[Body], positions: list[int]) -> tuple[list[Good], list[int]]:
    """The good ones of `bodies`, as `app.event.read_event` finds them, and the positions of the others."""
    refused: list[int] = []
    if (alike := _read_alike(bodies, positions)) is not None:
        return [alike], []
    try:
        events = list(map(_decode, bodies))
    except _MALFORMED:
        places = [place for place, body in enumerate(bodies) if _is_decodable(body)]
        refused = sorted(set(positions).difference(positions[place] for place in places))
        bodies, positions = [bodies[place] for place in places], [positions[place] for place in places]
        events = list(map(_decode, bodies))
    proofs: list[_Proof] = []
    odd: list[_Group] = []
    for group, columns in _groups(events, bodies, positions):
        try:
            proofs.append(_prove(group, columns))
        except (Doubt, BrokenRule):
            odd.append(group)
    if _may_be_repeated_in(proofs):
        odd += [proof.group for proof in proofs]
        proofs = []
    good = [proof.good for proof in proofs]
    for group in odd:
        found = read_singly(group.bodies, group.positions)
        good += found
        refused += set(group.positions).difference(at for one in found for at in one.positions)
    return good, refused


def read_whole(array: bytes) -> Good | None:
    """All events of a JSON array, by their positions in it. None unless all look alike and are good."""
    if array.count(b"{") < FEW:  # a type for a look that is new takes longer than a few events do
        return None
    try:
        first = _decode(array[array.find(b"{") : array.find(b"}") + 1])
    except _MALFORMED:
        return None
    columns = decode_alike(first, array)
    if columns is None or columns.events < FEW:
        return None
    return _prove_alike(columns, array, range(columns.events))


def _read_alike(bodies: list[Body], positions: list[int]) -> Good | None:
    """The short way: all of them look like the first, and are good."""
    if len(bodies) < FEW:
        return None
    try:
        first = _decode(bodies[0])
    except _MALFORMED:
        return None
    columns = read_alike(first, bodies)
    return None if columns is None else _prove_alike(columns, b"".join(bodies), positions)


def _prove_alike(columns: Columns, text: bytes, positions: Sequence[int]) -> Good | None:
    """`text`: that of all of them. None where they are not certainly good."""
    look = columns.look
    texts = cast("Mapping[str, Sequence[str]]", columns)
    try:
        for name in ("event_name", *look.times):
            check_text(name, texts[name])
        for name in look.arrays:
            check_items(cast("Sequence[list[object]]", columns[name]))
    except Doubt:
        return None
    holding_colons = (
        (texts[name] for name in look.times),
        (texts[name] for name in look.strings),
        (_strings(columns[name]) for name in look.arrays),
    )
    if _may_repeat_names(text, len(columns) * columns.events, holding_colons):
        return None
    return Good(positions, texts["event_name"], texts.get("event_id", ()), look.field_paths)


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


def _is_decodable(body: Body) -> bool:
    try:
        _decode(body)
    except _MALFORMED:
        return False
    return True


def _groups(
    events: list[Fields], bodies: list[Body], positions: list[int]
) -> Iterator[tuple[_Group, list[_Column]]]:
    """By the names of fields; each is an object in all events of a group or in none, with the same names."""
    if not events:
        return
    names = list(map(tuple, events))
    if names.count(names[0]) == len(names):
        groups = [_Group(names[0], positions, bodies, events)]
    else:
        groups = _split(names, names, bodies, positions, events)
    for group in groups:
        columns = _columns(group)
        nested = [name for name, _, kinds in columns if dict in kinds]
        children = [
            tuple([tuple(value) if type(value := event[name]) is dict else None for name in nested])
            for event in (group.events if nested else ())
        ]
        if not nested or children.count(children[0]) == len(children):
            yield group, columns
            continue
        for part in _split(children, repeat(group.names), group.bodies, group.positions, group.events):
            yield part, _columns(part)


def _columns(group: _Group) -> list[_Column]:
    if len(group.events) < FEW:
        return []
    columns = zip(*map(dict.values, group.events), strict=True)
    return [(name, column, set(map(type, column))) for name, column in zip(group.names, columns, strict=True)]


def _split(
    keys: Iterable[object],
    names: Iterable[tuple[str, ...]],
    bodies: Iterable[Body],
    positions: Iterable[int],
    events: Iterable[Fields],
) -> list[_Group]:
    """A group for each key."""
    groups: dict[object, _Group] = {}
    for key, own, body, position, event in zip(keys, names, bodies, positions, events):  # noqa: B905
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(own, [], [], [])
        group.positions.append(position)
        group.bodies.append(body)
        group.events.append(event)
    return list(groups.values())


def _prove(group: _Group, columns: list[_Column]) -> _Proof:
    """Raises Doubt or BrokenRule unless every event is certainly good, but for repeated names."""
    if len(group.bodies) < FEW or max(map(len, group.bodies)) > MAX_STRING_BYTES:
        raise Doubt
    all_names: Names = group.names
    members = len(all_names)
    flat: list[_Column] = []
    for one in columns:
        name, column, kinds = one
        if kinds != _OBJECT:
            flat.append(one)
            continue
        objects = cast("tuple[Fields, ...]", column)
        children = tuple(objects[0])
        all_names += (name, children)
        members += len(children)
        values = zip(*map(dict.values, objects), strict=True)
        flat += [("", child, set(map(type, child))) for child in values]
    read = read_shape if members <= MAX_REMEMBERED_NAMES else read_shape.__wrapped__
    shape = read(all_names)
    for name, column, kinds in flat:
        if name in shape.texts:
            if kinds != _TEXT:
                raise Doubt
            check_text(name, cast("Sequence[str]", column))
        elif name == "metric_value" and not kinds <= _NUMBERS:
            raise Doubt
        elif not kinds <= _PLAIN:
            check_leaves(column, kinds)
    texts = cast("dict[str, Sequence[str]]", {name: column for name, column, _ in columns})
    if "event_name" not in texts:
        raise Doubt
    good = Good(group.positions, texts["event_name"], texts.get("event_id", ()), shape.field_paths)
    return _Proof(group, good, flat, members * len(group.bodies))


def _may_be_repeated_in(proofs: list[_Proof]) -> bool:
    columns = [one for proof in proofs for one in proof.columns]
    return _may_repeat_names(
        b"".join(chain.from_iterable(proof.group.bodies for proof in proofs)),
        sum(proof.members for proof in proofs),
        (
            (cast("Sequence[str]", column) for name, column, _ in columns if name == "timestamp"),
            (
                cast("Sequence[str]", column)
                for name, column, kinds in columns
                if kinds == _TEXT and name != "timestamp"
            ),
            (_strings(column) for _, column, kinds in columns if kinds != _TEXT),
        ),
    )


def _may_repeat_names(text: bytes, members: int, holding_colons: Iterable[Iterable[Iterable[str]]]) -> bool:
    """A repeated name is lost by the decoder, but its colon is still there.

    `members`: names that were decoded. `holding_colons`: strings in which the other colons may be, column by
    column, those where they mostly are first; the rest is not asked for once all are found.
    """
    extra = text.count(b":") - members
    for columns in holding_colons:
        if not extra:
            break
        extra -= sum("".join(column).count(":") for column in columns)
    # A colon in a string is one in the bytes, unless it is written as \u003a.
    return extra != 0 or (b"\\" in text and b"\\u003" in text)


def _strings(column: Column) -> list[str]:
    """Those of a column, and of its arrays."""
    items = chain.from_iterable(value for value in column if type(value) is list)
    return [value for value in chain(column, items) if type(value) is str]
