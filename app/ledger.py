"""The ledger: how many events met which fate, by project and hour. Pure; the counting is done by scripts.

Every appended event has exactly one fate. Counted where the act itself happens, in the same script:
`appended` in APPEND, the others in ACKNOWLEDGE and in the scripts that move an event on from there
(`app.stream_scripts`, `app.ledger_scripts`). So

    queued = appended - stored - dead - duplicate - erased - expired

A fate that changes later moves: when a stored row is erased, `stored` falls and `erased` rises. Therefore
`stored` of a project and hour equals its rows in the store at every moment at which nothing is queued.
The hour is that of `time_recorded`, the server's clock, so that the store can be asked for the same hour.

Hours that no event can enter any more are folded into one bucket of their project, `project|before`, so
that the ledger's size depends on the projects at work and not on its age. Where events are kept for a number
of days only, `stored` is folded into months instead, `project|2026-01`, since a month of the store is dropped
at once. Who reads it: `app.ledger_reader`; who compares it with the store: `workers.verify`; who moves and
folds: `workers.erase`, `workers.retention`, `workers.tidy`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from app.stream import Record

APPENDED, STORED, DEAD = "appended", "stored", "dead"
DUPLICATE, ERASED, EXPIRED = "duplicate", "erased", "expired"
FINAL = (STORED, DEAD, DUPLICATE, ERASED, EXPIRED)
FATES = (APPENDED, *FINAL)
QUEUED = "queued"  # computed, never counted

HOUR_MS = 3_600_000
BEFORE = "before"  # stands in place of the hour in a folded bucket
# An event_id is known for 7 days, and a spool is replayed for as long: until then hours still move, and
# `verify --since 7d` can name them. One day more, so that neither meets the edge.
KEPT_HOURS = 8 * 24

_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)

Fates: TypeAlias = dict[str, int]
Buckets: TypeAlias = dict[str, Fates]


def bucket(project_id: str, time_recorded: int) -> str:
    """Where an event is counted: `project|hour`, the hour counted from 1970."""
    return f"{project_id}|{time_recorded // HOUR_MS}"


def folded(project_id: str) -> str:
    """The bucket of a project's folded hours."""
    return f"{project_id}|{BEFORE}"


def of_month(project_id: str, hour: int) -> str:
    """The bucket of a project's stored events of the month of `hour`."""
    return f"{project_id}|{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m}"


def places(where: str) -> tuple[str, str, str]:
    """Where the events of an hour's bucket are counted: there, or folded by now. Errors: ValueError."""
    project_id, hour = split_bucket(where)
    if hour is None:
        raise ValueError(f"{where} is no bucket of an hour")
    return where, of_month(project_id, hour), folded(project_id)


def split_bucket(where: str) -> tuple[str, int | None]:
    """Project and hour of a bucket; None for the folded ones. Errors: ValueError."""
    project_id, _, hour = where.rpartition("|")
    return project_id, None if hour == BEFORE or _MONTH.fullmatch(hour) else int(hour)


def end_of(where: str) -> int | None:
    """The first hour behind a bucket; None for `before`, which has no bounds. Errors: ValueError."""
    name = where.rpartition("|")[2]
    if name == BEFORE:
        return None
    if _MONTH.fullmatch(name):
        following = datetime.fromisoformat(f"{name}-01T00:00:00+00:00") + timedelta(days=31)
        return int(following.replace(day=1).timestamp()) // 3600
    return int(name) + 1


def field(where: str, fate: str) -> str:
    """The field of a partition's `ledger:hours` hash."""
    return f"{where}|{fate}"


def count(records: Iterable[Record]) -> Counter[str]:
    """Bucket -> number of records."""
    hours = Counter([(one.project_id, one.time_recorded // HOUR_MS) for one in records])
    return Counter(
        {bucket(project_id, hour * HOUR_MS): number for (project_id, hour), number in hours.items()}
    )


def encode_counts(counts: Mapping[str, int]) -> str:
    """Counts as one argument of APPEND, which stores them in the entry too."""
    return ";".join(f"{where}={number}" for where, number in counts.items())


def decode_counts(text: str) -> dict[str, int]:
    """The counts of an entry. Errors: ValueError."""
    pairs = [pair.rpartition("=") for pair in text.split(";") if pair]
    return {where: int(number) for where, _, number in pairs}


def queued(fates: Mapping[str, int]) -> int:
    """What was appended and has no final fate yet. Below zero: something was counted twice."""
    return fates.get(APPENDED, 0) - sum(fates.get(fate, 0) for fate in FINAL)


def imbalance(fates: Mapping[str, int], entries: int) -> int:
    """Events without a fate, from one atomic look at a partition: 0 unless the ledger is wrong.

    While entries wait nobody but a reader of the stream can tell what should be queued; too many fates
    are wrong at any time.
    """
    waiting = queued(fates)
    return waiting if waiting < 0 or not entries else 0


def add(into: Buckets, where: str, fates: Mapping[str, int]) -> None:
    """Sum up: what several partitions, or several hours, count for one bucket."""
    sums = into.setdefault(where, {})
    for fate, number in fates.items():
        sums[fate] = sums.get(fate, 0) + number
