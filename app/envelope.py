"""Whose an event is and by which id its copies are known, read from its record alone. A leaf.

A row is not made for it, since there are events of which none can be made.
"""

from __future__ import annotations

import msgspec

from app.stream import Record


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """`customer_identifier` and `event_id` as the store has them; "" where the event has none."""

    customer_identifier: str = ""
    event_id: str = ""


_DECODE = msgspec.json.Decoder(Envelope).decode


def read_envelope(record: Record) -> Envelope:
    """The key's customer wins over the body's, the body's id over that of the header."""
    try:
        own = _DECODE(record.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        own = Envelope()
    return Envelope(record.customer_identifier or own.customer_identifier, own.event_id or record.event_id)
