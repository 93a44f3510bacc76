"""The store's memory of event ids: asked before a batch is planned, written after its rows are stored.

The order is the point. The row comes first, then its id, then the acknowledgement. A crash between any two of
them leaves the plan in Redis, and whoever settles it writes the ids again, which changes nothing. An id
written first would turn the only copy of an event into a duplicate if the row then failed.

Ids are asked for in the table `event_ids`. Events that were recorded long ago (a spool, a dead letter that
was sent again) may need ids that it no longer has; they are looked up in `events` itself, which is slow, rare
and exact.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Sequence

from app import metrics
from app.store import Store
from workers.erased_copies import Hidden, without_erased
from workers.items import Item, Items
from workers.plan import Plan
from workers.rows import encode_length
from workers.verdict import WINDOW_MS, Copy, Known, stored_rows

RECENT_MS = WINDOW_MS  # migration 0003 keeps ids for twice as long, and a day for clocks that differ
KEYS_A_QUESTION = 10_000  # 160 KB of digits; a statement may have 256 KiB
INSERT = "INSERT INTO event_ids (key, check, project_id, time_recorded, unique_req_id) FORMAT RowBinary"
INSERT_SETTINGS: dict[str, str | int | float] = {
    "async_insert": 0,
    "insert_deduplicate": 0,  # a repeated write must be written: a token may be known without its rows
    "max_partitions_per_insert_block": 0,  # a day is a partition, and old events may come from many days
    "max_insert_block_size": 1_048_576,
}
_INT64 = struct.Struct("<q").pack
_MOMENTS = "toUnixTimestamp64Milli(time_recorded), lower(hex(unique_req_id))"
_SPAN = (
    " WHERE time_recorded BETWEEN fromUnixTimestamp64Milli({from:Int64})"
    " AND fromUnixTimestamp64Milli({to:Int64})"
)
# `key` alone decides what is read; `check` comes back, and the caller compares all 16 bytes.
_RECENT = (
    f"SELECT hex(reinterpretAsFixedString(key)) || hex(reinterpretAsFixedString(check)), {_MOMENTS}"  # noqa: S608
    f" FROM event_ids{_SPAN} AND key IN"
)
_STORED = (
    f"SELECT hex(substring(SHA256(concat(project_id, '\\0', event_id)), 1, 16)) AS id, {_MOMENTS}"  # noqa: S608
    f" FROM events{_SPAN} AND event_id != '' AND reinterpretAsUInt64(unhex(substring(id, 1, 16))) IN"
)


class EventIds:
    """The ids of stored events. Methods raise StoreError; the caller tries again."""

    def __init__(self, store: Store, *, timeout_seconds: float) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds

    async def look_up(self, items: Items) -> dict[bytes, list[Copy]]:
        """The stored copies of `items`: event_key -> copies, oldest first. Without ids nothing is asked."""
        recent_from = time.time_ns() // 1_000_000 - RECENT_MS
        moments: dict[str, dict[bytes, list[int]]] = {_RECENT: {}, _STORED: {}}
        for item in map(items.__getitem__, items.keyed):
            if item.record is not None:
                recorded = item.record.time_recorded
                table = _RECENT if recorded >= recent_from else _STORED
                moments[table].setdefault(item.event_key, []).append(recorded)
        known: dict[bytes, set[Copy]] = defaultdict(set)
        began = time.monotonic()
        for sql, keys in moments.items():
            distinct = list(keys)
            for start in range(0, len(distinct), KEYS_A_QUESTION):
                asked = distinct[start : start + KEYS_A_QUESTION]
                times = [moment for key in asked for moment in keys[key]]
                for key, copy in await self._ask(sql, asked, min(times), max(times)):
                    known[key].add(copy)
        if any(moments.values()):
            metrics.EVENT_ID_SECONDS.observe(time.monotonic() - began)
        return {key: sorted(copies) for key, copies in known.items()}

    async def not_erased(self, items: Items, hidden: Hidden) -> Known:
        """The same without the copies that `hidden` means, which was read before."""
        known, seconds = await self.look_up(items), self._timeout_seconds
        return await without_erased(self._store, known, hidden, items, timeout_seconds=seconds)

    async def _ask(self, sql: str, keys: Sequence[bytes], first: int, last: int) -> list[tuple[bytes, Copy]]:
        # In the statement, which may be longer than a URL: digits of our own digests, no client's text.
        digits = b"".join(key[:8] for key in keys).hex()
        chosen = (
            f"(SELECT reinterpretAsUInt64(substring(unhex('{digits}'), number * 8 + 1, 8))"  # noqa: S608
            f" FROM numbers({len(keys)}))"
        )
        answer = await self._store.ask(
            f"{sql} {chosen}",
            {"from": first - WINDOW_MS, "to": last + WINDOW_MS},
            timeout_seconds=self._timeout_seconds,
        )
        rows = [(bytes.fromhex(str(key)), Copy(int(str(at)), str(id_))) for key, at, id_ in answer.rows]
        asked = set(keys)
        return [(key, copy) for key, copy in rows if key in asked]

    async def remember(self, plan: Plan, items: Items) -> None:
        """Write the ids of the rows that `plan` has stored. Safe to repeat."""
        block = b"".join(_row(items[row]) for row in stored_rows(plan, items.keyed))
        if block:
            await self._store.insert(
                INSERT,
                block,
                token=plan.id,
                query_id=f"ids-{plan.id}-{time.monotonic_ns():x}",
                settings=INSERT_SETTINGS,
                timeout_seconds=self._timeout_seconds,
            )


def _row(item: Item) -> bytes:
    record = item.record
    if record is None:
        return b""
    project = record.project_id.encode()
    moment = _INT64(record.time_recorded)
    return b"".join((item.event_key, encode_length(len(project)), project, moment, record.unique_req_id))
