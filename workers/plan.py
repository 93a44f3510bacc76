"""The plan of a batch: what is inserted under which token, written to Redis before it is done. Pure.

A plan names its entries by first and last id. Its items are the records of those entries, in order; rows
are named by their position among the items, so that any drain that reads the same entries means the same.
Who carries a plan out: `workers.insert`. Why it exists: design, "the life of an event", steps 8 to 10.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from app import dead_letter, ledger
from app.dead_letter import DeadLetter
from workers.items import Item, Items, token_of


class Part(msgspec.Struct):
    """Rows that go in with one insert. `attempt` changes the token when the same rows are sent anew."""

    rows: list[int]
    attempt: int = 0


class Plan(msgspec.Struct):
    """`parts` are not yet known to be stored; `stored` rows are.

    `dead` are (item, reason). `duplicates` are (item, unique_req_id of the first copy as hex): the verdict is
    kept here because a look-up after a crash would find the plan's own rows and call them copies. `erased`
    are (item, id of the erasure), `expired` items, kept too. `size`: how many items its maker saw; 0 in
    plans of former versions.
    """

    id: str
    first: str
    last: str
    parts: list[Part]
    stored: int = 0
    dead: list[tuple[int, str]] = []
    duplicates: list[tuple[int, str]] = []
    size: int = 0
    erased: list[tuple[int, str]] = []
    expired: list[int] = []


class Halted(Exception):
    """Nothing may be acknowledged until somebody has looked: the message says why."""


MAX_DEAD_ROWS = 100  # of one batch, once they outnumber the others: then it is our bug, not the data's

_ENCODER = msgspec.msgpack.Encoder()
_PLAN_DECODER = msgspec.msgpack.Decoder(Plan)

encode = _ENCODER.encode
decode = _PLAN_DECODER.decode


def make(
    plan_id: str,
    items: Items,
    duplicates: Sequence[tuple[int, str]] = (),
    erased: Sequence[tuple[int, str]] = (),
    expired: Sequence[int] = (),
) -> Plan:
    """The plan of a new batch: one part with every row to be stored, dead letters for what has no row.

    `duplicates` and `expired` are verdicts of `workers.verdict`, `erased` of `workers.tombstones`: none of
    these is stored.
    """
    out = {*(position for position, _ in (*duplicates, *erased)), *expired}
    dead = [(position, items[position].reason) for position in items.rowless if position not in out]
    out.update(items.rowless)
    rows = [position for position in range(len(items)) if position not in out]
    parts = [Part(rows)] if rows else []
    return Plan(
        *(plan_id, items[0].entry, items[-1].entry, parts, 0, dead),
        duplicates=list(duplicates),
        size=len(items),
        erased=list(erased),
        expired=list(expired),
    )


def check_readable(items: Items) -> None:
    """Before a plan is made: if most events cannot be read, that is our bug, or another version wrote them.
    Letters that were put back say nothing: they go where they were.

    Errors: Halted.
    """
    rowless = [items[row] for row in items.rowless if not items[row].was_dead]
    events = sum(max(1, sum(_counts(item).values())) for item in rowless)
    if events >= MAX_DEAD_ROWS and events > len(items) - len(rowless):
        raise Halted(f"{events} of the next {events + len(items) - len(rowless)} events: {rowless[0].reason}")


def check_same(plan: Plan, items: Sequence[Item]) -> None:
    """Before a plan is carried out by another than its maker: positions must mean the same events to both.

    Errors: Halted.
    """
    if plan.size and plan.size != len(items):
        raise Halted(
            f"the unfinished plan was made of {plan.size} events where this version reads {len(items)}: "
            "let the version that made it finish it"
        )


def set_rowless_aside(plan: Plan, items: Sequence[Item]) -> list[int]:
    """Rows that the plan's maker could make and this version of the program cannot become dead letters.

    Returns them.

    Their place in the block would be empty, and an OK for that block would count them as stored.
    """
    rowless = [row for part in plan.parts for row in part.rows if items[row].rows is None]
    plan.dead += [(row, items[row].reason) for row in rowless]
    for part in plan.parts:
        part.rows = [row for row in part.rows if items[row].rows is not None]
    plan.parts = [part for part in plan.parts if part.rows]
    return rowless


def token(part: Part, items: Items) -> str:
    """The deduplication token of `part`: a digest of its ordered ids, where they lie, and the attempt.

    Anything less would let the engine drop different rows silently under a reused token. The entries tell a
    dead letter that was put back from its former life, whose token the engine may know without the row.
    """
    if not part.attempt and len(part.rows) == len(items):
        return items.token
    return token_of(map(items.__getitem__, part.rows), part.attempt)


def block(part: Part, items: Sequence[Item]) -> bytes:
    """The rows of `part` as one RowBinary block."""
    first, last = items[part.rows[0]], items[part.rows[-1]]
    rows = first.rows
    is_all = rows is not None and rows is last.rows and rows.count == len(part.rows)
    if rows is not None and is_all and not first.start and last.start + last.size == rows.size:
        return rows.whole()
    return b"".join([items[row].row or b"" for row in part.rows])


def months(part: Part, items: Sequence[Item]) -> dict[str, int]:
    """The months of the rows of `part`, each with the first row that is of it.

    The table is partitioned by month: an insert writes one part for each, and keeps its token for each.
    """
    found: dict[str, int] = {}
    for row in part.rows:
        record = items[row].record
        if record is not None:
            found.setdefault(time.strftime("%Y-%m", time.gmtime(record.time_recorded // 1000)), row)
    return found


def halves(part: Part) -> list[Part]:
    """`part` cut in two, under new tokens."""
    middle = len(part.rows) // 2
    return [Part(part.rows[:middle], part.attempt + 1), Part(part.rows[middle:], part.attempt + 1)]


def ledger_changes(plan: Plan, items: Items) -> dict[str, int]:
    """What the acknowledgement of a finished plan adds to the ledger: field -> number of events."""
    others = [(row, ledger.DUPLICATE) for row, _ in plan.duplicates]
    others += [(row, ledger.DEAD) for row, _ in plan.dead]
    others += [(row, ledger.ERASED) for row, _ in plan.erased]
    others += [(row, ledger.EXPIRED) for row in plan.expired]
    stored = items.buckets.copy()
    changes: Counter[str] = Counter()
    for row, fate in others:
        item = items[row]
        for where, number in _counts(item).items():
            changes[ledger.field(where, fate)] += number
            if item.record is not None:
                stored[where] -= number
    changes.update({ledger.field(where, ledger.STORED): number for where, number in stored.items() if number})
    return changes


def _counts(item: Item) -> dict[str, int]:
    if item.record is not None:
        return {item.bucket: 1}
    try:
        return ledger.decode_counts(item.counts)
    except ValueError:  # whoever wrote this entry was no edge of ours: it counted nothing either
        return {}


def dead_letters(plan: Plan, items: Sequence[Item]) -> list[tuple[str, bytes]]:
    """The plan's dead letters: unique_req_id as hex ("" for an unreadable entry), and payload."""
    now = time.time_ns() // 1_000_000
    return [
        (
            items[row].identity.hex(),
            dead_letter.encode(
                DeadLetter(
                    reason, now, items[row].entry, items[row].record, items[row].payload, items[row].counts
                )
            ),
        )
        for row, reason in plan.dead
    ]
