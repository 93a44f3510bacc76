"""The ledger: how many events met which fate, by project and hour. Pure; the counting is done by scripts.

Every appended event has exactly one fate. Counted where the act itself happens, in the same script:
`appended` in APPEND, the others in ACKNOWLEDGE and in the scripts that move an event on from there
(`app.stream_scripts`). So

    queued = appended - stored - dead - duplicate - erased - expired

A fate that changes later moves: when a stored row is erased, `stored` falls and `erased` rises. Therefore
`stored` of a project and hour equals its rows in the store at every moment at which nothing is queued.
The hour is that of `time_recorded`, the server's clock, so that the store can be asked for the same hour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from app.stream import Record

APPENDED, STORED, DEAD = "appended", "stored", "dead"
DUPLICATE, ERASED, EXPIRED = "duplicate", "erased", "expired"
FINAL = (STORED, DEAD, DUPLICATE, ERASED, EXPIRED)
FATES = (APPENDED, *FINAL)
HOUR_MS = 3_600_000


def bucket(project_id: str, time_recorded: int) -> str:
    """Where an event is counted: `project|hour`, the hour counted from 1970."""
    return f"{project_id}|{time_recorded // HOUR_MS}"


def field(where: str, fate: str) -> str:
    """The field of a partition's `ledger:hours` hash."""
    return f"{where}|{fate}"


def count(records: Iterable[Record]) -> Counter[str]:
    """Bucket -> number of records."""
    return Counter(bucket(one.project_id, one.time_recorded) for one in records)


def encode_counts(counts: Mapping[str, int]) -> str:
    """Counts as one argument of APPEND, which stores them in the entry too."""
    return ";".join(f"{where}={number}" for where, number in counts.items())


def decode_counts(text: str) -> dict[str, int]:
    """The counts of an entry. Errors: ValueError."""
    pairs = [pair.rpartition("=") for pair in text.split(";") if pair]
    return {where: int(number) for where, _, number in pairs}
