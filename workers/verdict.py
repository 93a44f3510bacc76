"""Which events of a batch are not to be stored: copies of others, by event id, and what is too old. Pure.

The rule: events with one id in one project, recorded at most seven days apart, are one event, and the first
copy in the order of the stream is the one that is stored. What the store holds came before the batch.

The verdict is given once, before the plan is saved, and kept in it: a look-up after a crash would find the
plan's own rows and call them copies. Who looks up: `workers.event_ids`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from workers.items import Item
from workers.plan import Part, Plan

WINDOW_MS = 7 * 24 * 3_600_000


def find_expired(items: Sequence[Item], oldest_ms: int, erased: Sequence[tuple[int, str]]) -> list[int]:
    """The rows that are older than events are kept, and not `erased`: a spool may bring them late."""
    if not oldest_ms:
        return []
    others = {row for row, _ in erased}
    return [
        row
        for row, item in enumerate(items)
        if item.record is not None and item.record.time_recorded < oldest_ms and row not in others
    ]


class Copy(msgspec.Struct, frozen=True, order=True):
    """A stored event: when it was recorded, and its unique_req_id as hex."""

    time_recorded: int
    unique_req_id: str


Known = Mapping[bytes, Sequence[Copy]]  # event_key -> the copies that are, or will be, in the store


def find_duplicates(items: Sequence[Item], rows: Iterable[int], known: Known) -> list[tuple[int, str]]:
    """The rows among `rows` that are copies, each with the unique_req_id of the first copy."""
    kept = {key: list(copies) for key, copies in known.items()}
    duplicates = []
    for row in rows:
        item = items[row]
        if not item.event_key or item.record is None:
            continue
        copies = kept.setdefault(item.event_key, [])
        recorded = item.record.time_recorded
        near = (one for one in copies if abs(one.time_recorded - recorded) <= WINDOW_MS)
        first = next(near, None)
        if first is not None:
            duplicates.append((row, first.unique_req_id))
        else:
            copies.append(Copy(recorded, item.identity.hex()))
    return duplicates


def promote(plan: Plan, items: Sequence[Item], dead_row: int) -> None:
    """`dead_row` will not be stored after all: the next of its copies takes its place in the plan.

    Otherwise a good event would be dropped as the copy of one that no query returns.
    """
    died = items[dead_row].identity.hex()
    waiting = [row for row, first in plan.duplicates if first == died]
    if not waiting:
        return
    plan.duplicates = [(row, first) for row, first in plan.duplicates if first != died]
    rowless = [row for row in waiting if items[row].rows is None]
    plan.dead += [(row, items[row].reason) for row in rowless]
    waiting = [row for row in waiting if items[row].rows is not None]
    copies = find_duplicates(items, waiting, _kept(plan, items, items[dead_row].event_key, waiting))
    plan.duplicates += copies
    promoted = sorted(set(waiting) - {row for row, _ in copies})
    if promoted:
        plan.parts.append(Part(promoted))


def stored_rows(plan: Plan, rows: Iterable[int]) -> list[int]:
    """Those of `rows` that the store holds once the plan has been carried out."""
    others = {*(row for row, _ in (*plan.dead, *plan.duplicates, *plan.erased)), *plan.expired}
    return [row for row in rows if row not in others]


def _kept(plan: Plan, items: Sequence[Item], key: bytes, waiting: Sequence[int]) -> Known:
    """Other rows of the plan with the same id, too far in time from the dead one to be its copies."""
    return {
        key: [
            Copy(record.time_recorded, record.unique_req_id.hex())
            for row in stored_rows(plan, range(len(items)))
            if row not in waiting and items[row].event_key == key
            if (record := items[row].record) is not None
        ]
    }
