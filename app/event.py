"""The event contract (api.md section 3.1): bytes -> a validated Event, or every problem found. Pure.

One typed decode decides almost everything; the bytes are never re-encoded and never changed. What the
decoder cannot see is checked on its result: ranges, string sizes, one kind an array, reserved names.
When anything is wrong, `app.event_problems` reads the body again, slowly, and names each problem.
Next reader: `app.track`, which calls `read_event`.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import pairwise
from typing import cast

import msgspec

from app.timestamp import parse_timestamp

MAX_EVENT_NAME_CHARACTERS = 256
MAX_CUSTOMER_CHARACTERS = 256
MAX_EVENT_ID_CHARACTERS = 128
MAX_FIELDS = 256
MAX_STRING_BYTES = 8192
MAX_ARRAY_ITEMS = 1000
MAX_SHAPES, MAX_REMEMBERED_NAMES = 512, 64  # of events, remembered by this process; names of one, all levels
WHITE_SPACE = b" \t\n\r"
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what the store's Int64 and UInt64 hold between them

EVENT_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_EVENT_NAME_CHARACTERS}}}", re.ASCII)
FIELD_NAME = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9_ $-]{0,127}", re.ASCII)

RESERVED = frozenset(
    (
        *("unique_req_id", "project_id", "time_recorded", "event_time", "ip_country", "ip_region", "ip_city"),
        *("browser_name", "browser_version", "os_name", "os_version", "device_type", "is_bot", "user_agent"),
    )
)
# Strings with a column of their own; derived from the request when the event does not carry them.
PREDEFINED_STRINGS = (
    "page_url",
    "referrer",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
)
ENVELOPE = frozenset(("event_name", "timestamp", "customer_identifier", "event_id", *PREDEFINED_STRINGS))
# Typed by the contract, stored with the custom fields.
METRIC = frozenset(("metric_name", "metric_value"))
TEXTS = ENVELOPE | {"metric_name"}  # names whose value must be a string

Scalar = str | int | float | bool
Array = list[Scalar]
Leaf = str | int | float | bool | None | Array
Value = str | int | float | bool | None | Array | dict[str, Leaf]
Fields = dict[str, Value]
Names = tuple[str | tuple[str, ...], ...]

# Types whose values may be outside their limits; in a body shorter than a string's limit no string is.
LIMITED_IN_SHORT = frozenset((int, list, dict))
LIMITED = LIMITED_IN_SHORT | {str}
_DECODER: msgspec.json.Decoder[Fields] = msgspec.json.Decoder(Fields)


class Event(msgspec.Struct, frozen=True, gc=False):
    """What the edge must know of one event; everything else stays in the body's bytes.

    `event_time` is Unix milliseconds, None where the client sent no timestamp. `field_paths` are the
    custom fields, nested ones as `parent.child`: they count towards the project's cap.
    """

    event_name: str
    event_time: int | None
    customer_identifier: str | None
    event_id: str | None
    field_paths: tuple[str, ...]


class BrokenRule(Exception):
    """The body breaks at least one rule of the contract; `app.event_problems` says which, and where."""


def read_event(body: bytes) -> Event:
    """Validate one event's JSON.

    Errors: BrokenRule, without saying which: `event_problems.find` tells.
    """
    try:
        fields = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenRule from None
    names, how_many = _check_values(fields, long_strings=len(body) > MAX_STRING_BYTES)
    # But for white space each name is followed by `":`; as many of them as decoded names leaves none
    # repeated. Strings may hold the pair too: then the slow check decides.
    if body.translate(None, WHITE_SPACE).count(b'":') != how_many and has_repeated_name(body):
        raise BrokenRule
    read = read_shape if how_many <= MAX_REMEMBERED_NAMES else read_shape.__wrapped__
    return _envelope(fields, read(names))


def _check_values(fields: Fields, *, long_strings: bool) -> tuple[Names, int]:
    """All that depends on values; returns the names, and how many there are."""
    names: Names = tuple(fields)
    how_many = len(names)
    limited = LIMITED if long_strings else LIMITED_IN_SHORT
    for name, value in fields.items():
        kind = type(value)
        if kind not in limited:
            continue
        if kind is dict:
            below = cast("dict[str, Leaf]", value)
            how_many += len(below)
            names += (name, tuple(below))
            for leaf in below.values():
                if not is_leaf(leaf, long_strings=long_strings):
                    raise BrokenRule
        elif not is_leaf(value, long_strings=long_strings):
            raise BrokenRule
    return names, how_many


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What the names of an event say, whatever its values: its custom fields, and what must be text."""

    field_paths: tuple[str, ...]
    texts: tuple[str, ...]


@lru_cache(MAX_SHAPES)
def read_shape(names: Names) -> Shape:
    """All that depends on names alone. Clients send few different shapes, so it is done once for each.

    `names`: those of the event, then again each one that holds an object, followed by the names in there.
    Errors: BrokenRule.
    """
    top = [name for name in names if isinstance(name, str)]
    children = {parent: below for parent, below in pairwise(names) if isinstance(below, tuple)}
    del top[len(top) - len(children) :]
    paths: list[str] = []
    for name in top:
        if name in children:
            if name in ENVELOPE or name in METRIC:
                raise BrokenRule
            below = children[name]
            paths += [f"{name}.{child}" for child in below] or [name]
        elif name not in ENVELOPE:
            if "." in name:  # would read as a nested path, and collide with one in the store
                raise BrokenRule
            paths.append(name)
    if len(top) > MAX_FIELDS or len(paths) > MAX_FIELDS or not RESERVED.isdisjoint(top):
        raise BrokenRule
    if not all(map(is_field_path, paths)):
        raise BrokenRule
    return Shape(tuple(paths), tuple(name for name in top if name in TEXTS))


def is_leaf(value: object, *, long_strings: bool = True) -> bool:
    """Is `value` (already of type Leaf) inside its limits?"""
    if isinstance(value, str):
        return not long_strings or fits(value)
    if isinstance(value, int):
        return MIN_INTEGER <= value <= MAX_INTEGER
    if isinstance(value, list):
        return is_array(value, long_strings=long_strings)
    return True


def is_array(items: list[Scalar], *, long_strings: bool = True) -> bool:
    """Is `items` an array of one kind (strings, numbers or booleans), inside its limits?"""
    if len(items) > MAX_ARRAY_ITEMS:
        return False
    kinds = set(map(type, items))
    if len(kinds) > 1 and kinds != {int, float}:
        return False
    if int in kinds:
        # A float beside them may be larger: it is not an integer of 64 bits anyway.
        return all(MIN_INTEGER <= item <= MAX_INTEGER for item in items if type(item) is int)
    return not (long_strings and str in kinds) or all(map(fits, items))  # type: ignore[arg-type]


def fits(text: str) -> bool:
    """Is `text` at most 8 KiB as UTF-8?"""
    return len(text) <= MAX_STRING_BYTES and (text.isascii() or len(text.encode()) <= MAX_STRING_BYTES)


def is_field_path(path: str) -> bool:
    """Does each name of `path` follow the rule for custom names?"""
    return all(FIELD_NAME.fullmatch(name) for name in path.split(".", 1))


def _envelope(fields: Fields, shape: Shape) -> Event:
    """The fields that the contract names, each of the right type."""
    for name in shape.texts:
        if type(fields[name]) is not str:
            raise BrokenRule
    texts = cast("dict[str, str]", fields)
    event_name = texts.get("event_name")
    if event_name is None or not EVENT_NAME.fullmatch(event_name):
        raise BrokenRule
    event_time: int | None = None
    text = texts.get("timestamp")
    if text is not None:
        try:
            event_time = parse_timestamp(text)
        except ValueError:
            raise BrokenRule from None
    customer = texts.get("customer_identifier")
    if customer is not None and not 0 < len(customer) <= MAX_CUSTOMER_CHARACTERS:
        raise BrokenRule
    event_id = texts.get("event_id")
    if event_id is not None and not 0 < len(event_id) <= MAX_EVENT_ID_CHARACTERS:
        raise BrokenRule
    if "metric_value" in fields and type(fields["metric_value"]) not in (int, float):
        raise BrokenRule
    return Event(event_name, event_time, customer, event_id, shape.field_paths)


class _RepeatedName(Exception):
    pass


def has_repeated_name(body: bytes) -> bool:
    """Does any object of `body` name one member twice? A second parse: only for suspicious bodies."""

    def pairs(items: list[tuple[str, object]]) -> None:
        if len({name for name, _ in items}) != len(items):
            raise _RepeatedName

    try:
        json.loads(body, object_pairs_hook=pairs)
    except _RepeatedName:
        return True
    except ValueError:
        return False
    return False
