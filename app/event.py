"""The event contract (api.md section 3.1): bytes -> a validated Event, or every problem found. Pure.

One typed decode decides almost everything; the bytes are never re-encoded and never changed. What the
decoder cannot see is checked on its result: ranges, string sizes, one kind an array, reserved names.
When anything is wrong, `app.event_problems` reads the body again, slowly, and names each problem.
Next reader: `app.track`, which calls `read_event`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container

import msgspec

from app.timestamp import parse_timestamp

MAX_EVENT_NAME_CHARACTERS = 256
MAX_CUSTOMER_CHARACTERS = 256
MAX_EVENT_ID_CHARACTERS = 128
MAX_FIELDS = 256
MAX_STRING_BYTES = 8192
MAX_ARRAY_ITEMS = 1000
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

Scalar = str | int | float | bool
Array = list[Scalar]
Leaf = str | int | float | bool | None | Array
Value = str | int | float | bool | None | Array | dict[str, Leaf]
Fields = dict[str, Value]

_DECODER: msgspec.json.Decoder[Fields] = msgspec.json.Decoder(Fields)
# White space before a colon: the only way a name is not followed at once by `":`.
_SPACED_COLON = re.compile(rb"[ \t\n\r]:")


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


def read_event(body: bytes, known_paths: Container[str]) -> Event:
    """Validate one event's JSON.

    `known_paths` are field paths whose names were checked before (those of the project), so that the
    common event pays for no regular expression.
    Errors: BrokenRule, without saying which: `event_problems.find` tells.
    """
    try:
        fields = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenRule from None
    paths, names = _check_fields(fields, long_strings=len(body) > MAX_STRING_BYTES)
    # Each name is followed by exactly one `":`; as many of them as decoded names leaves none repeated.
    # Strings may hold the pair too: then the slow check decides.
    if (body.count(b'":') != names or _SPACED_COLON.search(body)) and has_repeated_name(body):
        raise BrokenRule
    for path in paths:
        if path not in known_paths and not is_field_path(path):
            raise BrokenRule
    return _envelope(fields, paths)


def _check_fields(fields: Fields, *, long_strings: bool) -> tuple[list[str], int]:
    """The custom field paths, and how many names the body holds."""
    if len(fields) > MAX_FIELDS:
        raise BrokenRule
    paths: list[str] = []
    names = len(fields)
    for name, value in fields.items():
        if type(value) is dict:
            names += len(value)
            if name in ENVELOPE or name in METRIC:
                raise BrokenRule
            if not value:
                paths.append(name)
            for child, leaf in value.items():
                if not is_leaf(leaf, long_strings=long_strings):
                    raise BrokenRule
                paths.append(f"{name}.{child}")
        else:
            if not is_leaf(value, long_strings=long_strings):
                raise BrokenRule
            if name not in ENVELOPE:
                if "." in name:  # would read as a nested path, and collide with one in the store
                    raise BrokenRule
                paths.append(name)
    if len(paths) > MAX_FIELDS or not RESERVED.isdisjoint(fields):
        raise BrokenRule
    return paths, names


def is_leaf(value: object, *, long_strings: bool = True) -> bool:
    """Is `value` (already of type Leaf) inside its limits?"""
    kind = type(value)
    if isinstance(value, str):
        return not long_strings or fits(value)
    if kind is int:
        return MIN_INTEGER <= value <= MAX_INTEGER  # type: ignore[operator]
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


def _envelope(fields: Fields, paths: list[str]) -> Event:
    """The fields that the contract names, each of the right type."""
    event_name = fields.get("event_name")
    if not isinstance(event_name, str) or not EVENT_NAME.fullmatch(event_name):
        raise BrokenRule
    event_time: int | None = None
    if "timestamp" in fields:
        text = fields["timestamp"]
        if not isinstance(text, str):
            raise BrokenRule
        try:
            event_time = parse_timestamp(text)
        except ValueError:
            raise BrokenRule from None
    for name in PREDEFINED_STRINGS:
        if name in fields and not isinstance(fields[name], str):
            raise BrokenRule
    if "metric_name" in fields and not isinstance(fields["metric_name"], str):
        raise BrokenRule
    if "metric_value" in fields and type(fields["metric_value"]) not in (int, float):
        raise BrokenRule
    customer = _text(fields, "customer_identifier", MAX_CUSTOMER_CHARACTERS)
    event_id = _text(fields, "event_id", MAX_EVENT_ID_CHARACTERS)
    return Event(event_name, event_time, customer, event_id, tuple(paths))


def _text(fields: Fields, name: str, max_characters: int) -> str | None:
    """A non-empty string of bounded length, or None where the field is missing."""
    if name not in fields:
        return None
    text = fields[name]
    if not isinstance(text, str) or not 0 < len(text) <= max_characters:
        raise BrokenRule
    return text


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
