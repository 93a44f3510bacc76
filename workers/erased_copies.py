"""Which copies, found by event id, are erased though the store still holds them: they make no duplicate.

Between the answer of an erasure and the round that deletes its rows lie seconds, or as long as the store is
away. An event that comes in between with the id of an erased one is new: taken for its copy, it would be
stored nowhere once the round has been. Asked only while a project has rows that wait to be erased.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from app import ledger
from app.filters import each_filter
from app.scope import Erased
from app.sql_fields import elements
from app.sql_filters import erased
from app.store import Store
from workers.items import Items
from workers.verdict import Known

IDS_A_QUESTION = 2_000  # 64 KB of digits, beside the tombstones
Hidden = Mapping[str, tuple[Erased, ...]]  # project -> what waits to be erased there


async def without_erased(
    store: Store, known: Known, hidden: Hidden, items: Items, *, timeout_seconds: float
) -> Known:
    """`known` without the copies that `hidden` means. `hidden` was read before `known`, or an erasure could
    end between the two. Errors: StoreError."""
    ids: dict[str, set[str]] = defaultdict(set)
    for item in map(items.__getitem__, items.keyed):
        if item.record is not None and (meant := hidden.get(item.record.project_id)):
            latest = max(one.up_to_ms for one in meant)
            copies = known.get(item.event_key, ())
            ids[item.record.project_id].update(
                copy.unique_req_id for copy in copies if copy.time_recorded <= latest
            )
    gone: set[str] = set()
    for project_id, some in ids.items():
        ordered = sorted(some)
        for start in range(0, len(ordered), IDS_A_QUESTION):
            for sql in _questions(hidden[project_id], ordered[start : start + IDS_A_QUESTION]):
                which = {"project": project_id}
                gone.update(
                    str(id_) for (id_,) in (await store.ask(sql, which, timeout_seconds=timeout_seconds)).rows
                )
    if not gone:
        return known
    return {key: [copy for copy in copies if copy.unique_req_id not in gone] for key, copies in known.items()}


def _questions(meant: Sequence[Erased], ids: Sequence[str]) -> tuple[str, str]:
    """Of rows, and then of those that a round has deleted: it writes their fates before."""
    digits = "".join(ids)  # hex of our own ids, no client's text
    chosen = (
        "project_id = {project:String} AND unique_req_id IN"  # noqa: S608
        f" (SELECT toFixedString(substring(unhex('{digits}'), number * 16 + 1, 16), 16)"
        f" FROM numbers({len(ids)}))"
    )
    named = elements(item.field for one in meant for item in each_filter(one.filters))
    holds = " OR ".join(f"coalesce({one}, 0)" for one in erased(meant))
    found = "SELECT lower(hex(unique_req_id)) FROM"
    return (
        f"{named}{found} events WHERE {chosen} AND ({holds})",
        f"{found} fates WHERE {chosen} AND fate = '{ledger.ERASED}'",
    )
