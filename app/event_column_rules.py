"""One field of many events at once: does every value keep the rules of `app.event`? Pure.

These checks may only prove that a whole column is good; where they cannot, they raise Doubt, and
`app.event_columns` has the events read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import cast

from app.event import (
    EVENT_NAME,
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_INTEGER,
    MIN_INTEGER,
    Scalar,
    is_array,
)
from app.timestamp import parse_timestamp

Column = Sequence[object]
Kinds = set[type]

_TEXT_LIMITS = {"customer_identifier": MAX_CUSTOMER_CHARACTERS, "event_id": MAX_EVENT_ID_CHARACTERS}
_DIGITS_TO_0 = bytes(ord("0") if byte in b"123456789" else byte for byte in range(256))
_CLOCKS = ["00:00", "00:00:00", *("00:00:00." + "0" * digits for digits in range(1, 10))]
_ZONES = ["", "Z", "+00:00", "-00:00", "+0000", "-0000"]
# What a timestamp may look like, each digit written as 0.
_TIMESTAMPS = {b"0000-00-00", *(f"0000-00-00T{clock}{zone}".encode() for clock in _CLOCKS for zone in _ZONES)}


class Doubt(Exception):
    """These columns do not prove that all of the events are good."""


def check_text(name: str, column: Sequence[str]) -> None:
    """The fields that the contract knows."""
    if name == "timestamp":
        _check_timestamps(column)
    elif name == "event_name":
        if not all(map(EVENT_NAME.fullmatch, set(column))):
            raise Doubt
    elif name in _TEXT_LIMITS and not (all(column) and max(map(len, column)) <= _TEXT_LIMITS[name]):
        raise Doubt


def _check_timestamps(column: Sequence[str]) -> None:
    joined = "\n".join(column)
    zeros = joined.encode().translate(_DIGITS_TO_0)
    look = zeros.partition(b"\n")[0]
    looks = {look} if zeros == b"\n".join([look] * len(column)) else set(zeros.split(b"\n"))
    is_common = looks <= _TIMESTAMPS and joined.startswith("20") and "T24" not in joined
    try:
        if not is_common or joined.count("\n20") != len(column) - 1:  # 1999, or something stranger
            for text in column:
                parse_timestamp(text)
            return
        list(map(datetime.fromisoformat, column))  # is it a day, a time, an offset?
    except ValueError:
        raise Doubt from None
    has_offset = any(b"+" in look or b"-" in look[10:] for look in looks)
    if has_offset and any(text[-2:] > "59" for text in column):
        raise Doubt  # an offset of 99 minutes is none


def check_items(arrays: Sequence[list[object]]) -> None:
    """Arrays that are inside their limits, as the decoder says: is each of one kind?"""
    kinds = set(map(type, chain.from_iterable(arrays)))
    if len(kinds) > 1 and not all(map(is_array, cast("Sequence[list[Scalar]]", arrays))):
        raise Doubt


def check_leaves(column: Column, kinds: Kinds) -> None:
    """Integers and arrays; nothing else has limits here."""
    if int in kinds:
        numbers = column if len(kinds) == 1 else [value for value in column if type(value) is int]
        if min(numbers) < MIN_INTEGER or max(numbers) > MAX_INTEGER:  # type: ignore[type-var, operator]
            raise Doubt
    if list in kinds:
        found = column if len(kinds) == 1 else [value for value in column if type(value) is list]
        arrays = cast("Sequence[list[Scalar]]", found)
        of_items = set(map(type, chain.from_iterable(arrays)))
        if max(map(len, arrays)) > MAX_ARRAY_ITEMS:
            raise Doubt
        if (len(of_items) > 1 or int in of_items) and not all(map(is_array, arrays)):
            raise Doubt
