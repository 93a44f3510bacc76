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


class Wanted(msgspec.Struct, frozen=True):
    """Which letters. `project_id` "" means every project's, and unreadable entries, which belong to none.

    `reason`: a part of it, in any case. `since_ms`: set aside at this moment of Redis's clock or later.
    """

    project_id: str = ""
    reason: str = ""
    since_ms: int = 0

    def admits(self, letter: DeadLetter) -> bool:
        if self.project_id and (letter.record is None or letter.record.project_id != self.project_id):
            return False
        return self.reason.lower() in letter.reason.lower()


class Description(msgspec.Struct, frozen=True):
    """A letter in a list. Times are Unix milliseconds; what an unreadable entry has not is null."""

    unique_req_id: str | None
    place: str
    project_id: str | None
    reason: str
    message: str
    set_aside_at: int
    time_recorded: int | None
    events: int
    bytes: int


class Found(msgspec.Struct, frozen=True):
    """A letter and where it lies: `id` in the stream of dead letters of `partition`."""

    partition: int
    id: str
    letter: DeadLetter

    @property
    def unique_req_id(self) -> str:
        """As hex; "" for an unreadable entry."""
        return "" if self.letter.record is None else self.letter.record.unique_req_id.hex()

    @property
    def place(self) -> str:
        """Where it lies, as an address."""
        return f"{self.partition}/{self.id}"

    @property
    def address(self) -> str:
        """What it is called by."""
        return self.unique_req_id or self.place

    def describe(self) -> Description:
        letter, record = self.letter, self.letter.record
        reason, message = split_reason(letter)
        return Description(
            self.unique_req_id or None,
            self.place,
            None if record is None else record.project_id,
            reason,
            message,
            letter.at,
            None if record is None else record.time_recorded,
            sum(counts(letter).values()),
            len(letter.body),
        )
