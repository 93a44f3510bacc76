"""What a batch is made of: entries of the stream -> items, one for each event, with their rows. Pure.

Next: `workers.reading` fills a batch with them, `workers.plan` says what becomes of each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache

import msgspec

from app import dead_letter, ledger
from app.enrich import Geography
from app.partition import Entry
from app.stream import Record, split_group
from workers.rows import Rows, to_row


class Item(msgspec.Struct, gc=False):
    """One record of a batch, or one entry that holds none. `rows` is None where no row can be made.

    `identity`: the 16 bytes of the event's `unique_req_id`; none of an entry that cannot be read. `bucket`:
    where the ledger counts it. `counts`: the same for the events of an entry that cannot be read.
    `event_key`: what copies of one event have in common (`workers.rows.event_key`). `was_dead`: it was a dead
    letter before.
    """

    entry: str
    record: Record | None
    rows: Rows | None = None
    start: int = 0
    size: int = 0
    reason: str = ""
    payload: bytes = b""
    counts: str = ""
    event_key: bytes = b""
    customer_identifier: str = ""
    identity: bytes = b""
    bucket: str = ""
    was_dead: bool = False

    @property
    def row(self) -> bytes | None:
        """In RowBinary."""
        return None if self.rows is None else self.rows.cut(self.start, self.size)


class Items(list[Item]):
    """The items of a batch, once it is complete, and what they say together.

    Each of these is a walk through ten thousand items. Who reads ahead asks for them (`sum_up`), so that
    nothing is left of it for the moment between two inserts, when the store waits.
    """

    def sum_up(self) -> None:
        """Find out all of it. Nothing may be added any more."""
        _ = (self.keyed, self.rowless, self.buckets, self.token)

    @cached_property
    def keyed(self) -> list[int]:
        """Those with an event id."""
        return [row for row, item in enumerate(self) if item.event_key]

    @cached_property
    def rowless(self) -> list[int]:
        """Those of which no row can be made."""
        return [row for row, item in enumerate(self) if item.rows is None]

    @cached_property
    def buckets(self) -> Counter[str]:
        """How many events the ledger counts where; entries that cannot be read are none."""
        return Counter([item.bucket for item in self if item.record is not None])

    @cached_property
    def token(self) -> str:
        """The token of all of them, when they are sent for the first time."""
        return token_of(self, 0)


def read_items(entry: Entry, geography: Geography, rows: Rows) -> Iterator[Item]:
    """The items of one entry: the reason where no row can be made, the others' rows are added to `rows`."""
    try:
        records = split_group(entry.payload)
    except msgspec.DecodeError as error:
        reason = f"{dead_letter.UNREADABLE}: {error}"
        about = entry.payload, entry.counts
        yield Item(entry.id, None, None, 0, 0, reason, *about, was_dead=entry.was_dead)
        return
    for record in records:
        item = make_item(entry.id, record, geography, rows)
        if entry.was_dead:
            item.was_dead = True
        yield item


def make_item(entry_id: str, record: Record, geography: Geography, rows: Rows) -> Item:
    """The item of one event, whose row is added to `rows` if it can be made."""
    bucket = _bucket(record.project_id, record.time_recorded // ledger.HOUR_MS)
    try:
        row = to_row(record, geography)
    except (msgspec.DecodeError, ValueError) as error:
        reason = f"{dead_letter.ROWLESS}: {error}"
        return Item(entry_id, record, reason=reason, identity=record.unique_req_id, bucket=bucket)
    size, key, customer = len(row.data), row.event_key, row.customer_identifier
    return Item(
        entry_id, record, rows, rows.add(row.data), size, "", b"", "", key, customer, row.identity, bucket
    )


@lru_cache(maxsize=1024)
def _bucket(project_id: str, hour: int) -> str:
    return ledger.bucket(project_id, hour * ledger.HOUR_MS)


def token_of(items: Iterable[Item], attempt: int) -> str:
    """The deduplication token of an insert of these: see `workers.plan.token`."""
    pieces = [attempt.to_bytes(4, "big")]
    for item in items:
        pieces += (item.entry.encode(), b"/", item.identity)
    return hashlib.sha256(b"".join(pieces)).hexdigest()
