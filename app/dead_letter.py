"""A dead letter: one event, or one unreadable entry, set aside with its reason and its bytes. A leaf.

The drain writes them (`workers.plan`), operators and projects work with them (`app.dead`). A letter is found
by its event's unique_req_id, or, when the entry could not be read, by where it lies: `<partition>/<id>`.
"""

from __future__ import annotations

import msgspec

from app import ledger
from app.stream import Record, encode_record, join_group

UNREADABLE = "unreadable entry"  # how the reason of an entry without records begins
ROWLESS = "no row can be made"  # of an event that this program itself cannot turn into a row
REFUSED = "refused by the store"


class DeadLetter(msgspec.Struct):
    """`record` is None for an unreadable entry, whose bytes are `payload` and whose events `counts` counts.

    `at` is Unix milliseconds, `entry` the id of the stream entry that it came from.
    """

    reason: str
    at: int
    entry: str
    record: Record | None
    payload: bytes = b""
    counts: str = ""

    @property
    def body(self) -> bytes:
        """The client's bytes; of an unreadable entry all of its bytes."""
        return self.payload if self.record is None else self.record.body


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(DeadLetter).decode


def split_reason(letter: DeadLetter) -> tuple[str, str]:
    """The kind of fault, and the message of whoever found it: the engine's own where it refused the row."""
    for kind in (UNREADABLE, ROWLESS):
        if letter.reason.startswith(f"{kind}: "):
            return kind, letter.reason.removeprefix(f"{kind}: ")
    return REFUSED, letter.reason


def counts(letter: DeadLetter) -> dict[str, int]:
    """What the ledger counted for it, by project and hour: exactly what was added to `dead`."""
    if letter.record is not None:
        return dict(ledger.count([letter.record]))
    try:
        return ledger.decode_counts(letter.counts)
    except ValueError:  # whoever wrote this entry was no edge of ours: it counted nothing either
        return {}


def to_entry(letter: DeadLetter) -> bytes:
    """The payload of the entry that brings it back: a group of one, or the unreadable bytes as they are."""
    return letter.payload if letter.record is None else join_group([encode_record(letter.record)])
