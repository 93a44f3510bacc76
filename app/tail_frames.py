"""The tail on the wire: server-sent events, and how a client says where it was. Pure.

An event of ours is a message without a name; its data is one line of JSON, the event as a raw query shows it.
Other messages have names:

    open      the tail listens from here on
    dropped   events are missing here: {"count": how many, null where nobody can tell, "reason": why}
    end       nothing follows: {"reason": why}

An id stands with the last message of each entry of the stream, and alone where nothing was shown for a while:
for each partition the last entry that was looked into, `0:1624910874832-0` or, for several, one after the
other with commas.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from app.sql import RAW_COLUMNS
from app.timestamp import format_timestamp

EntryId: TypeAlias = tuple[int, int]
Positions: TypeAlias = dict[int, EntryId]

POSITION = r"[0-9]{1,3}:[0-9]{1,15}-[0-9]{1,15}(?:,[0-9]{1,3}:[0-9]{1,15}-[0-9]{1,15}){0,255}"
RETRY_MS = 2000  # what a client waits before it connects again
_NAMES = tuple(field.name for field in RAW_COLUMNS)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode


class Dropped(msgspec.Struct, frozen=True):
    """`count`: None where nobody can tell."""

    count: int | None
    reason: str


class End(msgspec.Struct, frozen=True):
    reason: str


class Open(msgspec.Struct, frozen=True):
    """`since`: Unix milliseconds."""

    since: int


def event_line(shown: Mapping[str, object], body: bytes) -> bytes:
    """The data of an event. `shown`: as `app.shown` has it; `body`: the client's bytes, digit for digit."""
    event: dict[str, object] = dict(_RAW.decode(body))
    for name in _NAMES:
        event[name] = shown[name]
    event["event_time"] = format_timestamp(int(str(shown["event_time"])))
    # A line break inside a string is an escape; between tokens it is white space.
    return _ENCODE(event).replace(b"\n", b" ").replace(b"\r", b" ")


def message(line: bytes, positions: Positions | None) -> bytes:
    """An event; with the id that says where the client is then."""
    return b"data: %b\n%b\n" % (line, b"" if positions is None else _id(positions))


def named(what: Dropped | End | Open, positions: Positions | None = None) -> bytes:
    """A message that is no event."""
    name = type(what).__name__.lower().encode()
    return b"event: %b\ndata: %b\n%b\n" % (name, _ENCODE(what), b"" if positions is None else _id(positions))


def opening(since_ms: int, positions: Positions) -> bytes:
    """The first message."""
    return b"retry: %d\n" % RETRY_MS + named(Open(since_ms), positions)


def heartbeat(positions: Positions) -> bytes:
    """Nothing was shown. The id is taken in without a message: who goes on from it is not sent far back."""
    return b": still here\n%b\n" % _id(positions)


def _id(positions: Positions) -> bytes:
    parts = [f"{partition}:{one}-{two}" for partition, (one, two) in sorted(positions.items())]
    return f"id: {','.join(parts)}\n".encode()


def read_positions(text: str) -> Positions:
    """The id of a message. It must match POSITION."""
    found: Positions = {}
    for part in text.split(","):
        partition, _, entry = part.partition(":")
        found[int(partition)] = parse_entry(entry)
    return found


def parse_entry(entry: str | bytes) -> EntryId:
    """`1624910874832-0` as numbers, which sort as the entries do."""
    text = entry.decode() if isinstance(entry, bytes) else entry
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)
