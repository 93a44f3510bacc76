"""What `eventbunker verify` compares, and what it finds. Pure; the asking is `workers.verifier`'s.

While events arrive, ledger and store cannot be read at one moment. So the ledger is read, then the store,
then the ledger again: what was stored before must be there, and what is there must be stored or queued by
then. A bucket in which nothing moved in between must be equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum

import msgspec

from app import ledger
from app.ledger import Buckets, Fates
from app.ledger_reader import Snapshot
from workers.count_rows import Rows


class Finding(msgspec.Struct, frozen=True):
    """One difference, or one bucket that did not come to rest. `hour` is UTC, "" where all are meant."""

    project_id: str
    hour: str
    what: str
    expected: int
    found: int
    hint: str


class Verdict(Enum):
    """Of one bucket after one look. MOVING is within the bounds that load explains."""

    EQUAL = "equal"
    MOVING = "moving"
    DIFFERENT = "different"


class Report(msgspec.Struct):
    """All that one run found out."""

    since: str = ""  # "" for everything
    rows: int = 0
    buckets: int = 0
    fates: Fates = {}
    differences: list[Finding] = []
    moving: list[Finding] = []
    elsewhere: list[str] = []  # what lies in this Redis under names that are not compared

    @property
    def clean(self) -> bool:
        return not self.differences


def judge(before: Fates, rows: Rows, after: Fates) -> Verdict:
    """One bucket, summed over all partitions."""
    if rows.distinct != rows.count:
        return Verdict.DIFFERENT
    stored = before.get(ledger.STORED, 0), after.get(ledger.STORED, 0)
    if stored[0] == stored[1] == rows.count:
        return Verdict.EQUAL
    waiting = ledger.queued(after)
    if before == after and not waiting:
        return Verdict.DIFFERENT
    gone = sum(after.get(fate, 0) - before.get(fate, 0) for fate in (ledger.ERASED, ledger.EXPIRED))
    # What was erased meanwhile may have been counted before it went, or not.
    is_explained = stored[0] - gone <= rows.count <= stored[1] + waiting + gone
    return Verdict.MOVING if is_explained else Verdict.DIFFERENT


def fold(buckets: Mapping[str, Fates], kept_from_hour: int) -> Buckets:
    """`buckets` with earlier hours in `before`, as if all partitions had folded up to the same hour."""
    sums: Buckets = {}
    for where, fates in buckets.items():
        ledger.add(sums, place(where, kept_from_hour), fates)
    return sums


def place(where: str, kept_from_hour: int) -> str:
    """The bucket in which `where` is compared."""
    project_id, hour = ledger.split_bucket(where)
    return where if hour is not None and hour >= kept_from_hour else ledger.folded(project_id)


def total(snapshots: Iterable[Snapshot], kept_from_hour: int) -> Buckets:
    """Every bucket, summed over all partitions."""
    sums: Buckets = {}
    for snapshot in snapshots:
        for where, fates in fold(snapshot.buckets, kept_from_hour).items():
            ledger.add(sums, where, fates)
    return sums


def with_stored_until(snapshots: Iterable[Snapshot], end_hour: int) -> set[str]:
    """The projects that have stored events in a bucket that ends at `end_hour` or before."""
    found = set()
    for snapshot in snapshots:
        for where, fates in snapshot.buckets.items():
            end = ledger.end_of(where)
            if fates.get(ledger.STORED) and end is not None and end <= end_hour:
                found.add(ledger.split_bucket(where)[0])
    return found


def unbalanced(snapshots: Iterable[Snapshot]) -> list[Finding]:
    """Where one partition's ledger is wrong by itself. Each was read in one step, so nothing excuses it."""
    return [finding for snapshot in snapshots for finding in _unbalanced(snapshot)]


def _unbalanced(snapshot: Snapshot) -> Iterable[Finding]:
    partition, kept = snapshot.partition, snapshot.kept_from_hour
    sums: Counter[str] = Counter()
    for fates in snapshot.buckets.values():
        sums.update(fates)
    for fate in ledger.FATES:
        if snapshot.totals.get(fate, 0) != sums[fate]:
            what = f"{fate} in partition {partition}, total against hours"
            yield Finding("", "", what, sums[fate], snapshot.totals.get(fate, 0), "the ledger was edited")
    if snapshot.queued is None:
        waiting: Counter[str] | None = None
    else:
        waiting = Counter()
        for where, number in snapshot.queued.items():
            waiting[place(where, kept)] += number
    buckets = fold(snapshot.buckets, kept)
    for where in {*buckets, *(waiting or ())}:
        open_events = ledger.queued(buckets.get(where, {}))
        in_stream = max(open_events, 0) if waiting is None else waiting[where]
        if open_events != in_stream:
            project_id, hour = ledger.split_bucket(where)
            hint = (
                "lost: appended, no fate, and not in the stream"
                if open_events > in_stream
                else "more fates than events: something was counted twice, or appended past the ledger"
            )
            what = f"events without a fate, in the stream of partition {partition}"
            yield Finding(project_id, hour_text(hour, kept), what, open_events, in_stream, hint)


def difference(where: str, kept_from_hour: int, rows: Rows, fates: Fates) -> Finding:
    """A bucket that is DIFFERENT, in words."""
    project_id, hour = ledger.split_bucket(where)
    stored = fates.get(ledger.STORED, 0)
    text = hour_text(hour, kept_from_hour)
    doubled, extra = rows.count - rows.distinct, rows.distinct - stored
    if doubled:
        hint = f"doubled: {doubled} rows have the unique_req_id of another"
        hint += f"; {-extra} more are lost" if extra < 0 else f"; {extra} more are foreign" if extra else ""
        return Finding(project_id, text, "rows that are events of their own", rows.count, rows.distinct, hint)
    if extra < 0:
        hint = f"lost: {-extra} events were counted as stored and have no row (deleted by hand?)"
    else:
        hint = f"foreign: {extra} rows that no drain of this queue counted (inserted by hand, or restored?)"
    return Finding(project_id, text, "rows in the store", stored, rows.count, hint)


def moving(where: str, kept_from_hour: int, rows: Rows, fates: Fates, why: str) -> Finding:
    """A bucket that did not come to rest while it was watched."""
    project_id, hour = ledger.split_bucket(where)
    text = hour_text(hour, kept_from_hour)
    return Finding(project_id, text, "rows in the store", fates.get(ledger.STORED, 0), rows.count, why)


def dead_letters(where: str, kept_from_hour: int, expected: int, found: int) -> Finding:
    """Dead letters that are not as many as were counted."""
    project_id, hour = ledger.split_bucket(where)
    hint = "removed by hand" if found < expected else "never counted, or counted away while they are there"
    return Finding(project_id, hour_text(hour, kept_from_hour), "dead letters", expected, found, hint)


def hour_text(hour: int | None, kept_from_hour: int) -> str:
    """The hour of a bucket, in UTC."""
    if hour is None:
        return f"before {hour_text(kept_from_hour, 0)}"
    try:
        return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:00Z")
    except (OverflowError, ValueError, OSError):
        return f"hour {hour} since 1970"
