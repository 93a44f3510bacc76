"""The store's table `fates`: what became of events that have no row in `events`. For receipts.

Duplicates by `event_id`, dead letters that were purged, and events that were erased: of those nothing is kept
but the id, by which erasure (`app.erasures`), and where it found them, which is how they are counted. A row
is written before Redis forgets the event, so a crash may write it twice; the last one counts. Rows live for
30 days.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Sequence

import msgspec

from app import ledger
from app.store import Store

INSERT = (
    "INSERT INTO fates"
    " (unique_req_id, project_id, customer_identifier, fate, detail, time_recorded, settled_at)"
    " FORMAT RowBinary"
)
_INT64 = struct.Struct("<q").pack


class Fate(msgspec.Struct, frozen=True):
    """One row. `time_recorded`: Unix ms.

    `detail` of a duplicate: the first copy's unique_req_id as hex. Of an erased event: the erasure and where.
    """

    unique_req_id: bytes
    project_id: str
    customer_identifier: str
    fate: str
    detail: str
    time_recorded: int


def erased(unique_req_id: bytes, project_id: str, erasure_id: str, where: str, time_recorded: int) -> Fate:
    """Of an event that an erasure has met at `where`: store, stream or dead_letters."""
    return Fate(unique_req_id, project_id, "", ledger.ERASED, f"{erasure_id} {where}", time_recorded)


async def write(store: Store, fates: Sequence[Fate], *, timeout_seconds: float) -> None:
    """Return when the store has fsynced `fates`. Errors: StoreRefused, StoreUnavailable (may be written)."""
    settled_at = time.time_ns() // 1_000_000
    block = b"".join(
        one.unique_req_id
        + b"".join(map(_text, (one.project_id, one.customer_identifier, one.fate, one.detail)))
        + _INT64(one.time_recorded)
        + _INT64(settled_at)
        for one in fates
    )
    token = hashlib.sha256(block).hexdigest()
    settings: dict[str, str | int | float] = {"async_insert": 0}
    await store.insert(
        INSERT,
        block,
        token=token,
        query_id=f"fates-{token[:24]}",
        settings=settings,
        timeout_seconds=timeout_seconds,
    )


def _text(text: str) -> bytes:
    value = text.encode()
    length, out = len(value), bytearray()
    while length > 0x7F:  # LEB128
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + value
