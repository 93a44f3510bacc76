"""What the store holds of a plan: asked after any doubt, when nothing of the plan runs any more.

Counting comes after the token has been sent again (`workers.insert`): then no copy of the insert can add a
row later, and what is not there now will not come by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from app.store import Store, Value
from workers.items import Item
from workers.patience import Patience
from workers.plan import Part, Plan

IDS_A_QUESTION = 1000  # the address of a request holds 64 KiB


class Held:
    """For one partition. `fence` proves the lease and raises LeaseLost."""

    def __init__(
        self,
        store: Store,
        fence: Callable[[], Awaitable[None]],
        patience: Patience,
        *,
        timeout_seconds: float,
    ) -> None:
        self._store = store
        self._fence = fence
        self._patience = patience
        self._timeout_seconds = timeout_seconds

    async def missing(self, plan: Plan, part: Part, items: Sequence[Item]) -> list[Part]:
        """The rows of `part` that the store does not hold, as a part with a new token; [] when none."""

        async def count() -> set[str]:
            await self.wait_until_quiet(plan.id)
            return await self._present(part, items)

        present = await self._patience.insist(count)
        missing = [row for row in part.rows if items[row].identity.hex() not in present]
        plan.stored += len(part.rows) - len(missing)
        return [Part(missing, part.attempt + 1)] if missing else []

    async def wait_until_quiet(self, plan_id: str) -> None:
        """Return when none of the plan's inserts runs in the server; end those that do not end."""
        mine = "startsWith(query_id, {plan:String}) OR startsWith(Settings['log_comment'], {plan:String})"
        running = f"SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND ({mine})"  # noqa: S608
        end = time.monotonic() + self._timeout_seconds
        asked_to_stop = False
        while int(str((await self._store.ask(running, {"plan": plan_id})).rows[0][0])):
            if time.monotonic() > end and not asked_to_stop:
                asked_to_stop = True
                await self._store.command(
                    f"KILL QUERY WHERE query_kind = 'Insert' AND ({mine}) ASYNC", {"plan": plan_id}
                )
            await self._fence()
            await asyncio.sleep(0.05)

    async def _present(self, part: Part, items: Sequence[Item]) -> set[str]:
        """The ids of `part` that the store holds, as hex."""
        times = [record.time_recorded for row in part.rows if (record := items[row].record) is not None]
        # time_recorded prunes partitions and granules; the ids decide.
        sql = (
            "SELECT DISTINCT lower(hex(unique_req_id)) FROM events"
            " WHERE time_recorded BETWEEN fromUnixTimestamp64Milli({from:Int64})"
            " AND fromUnixTimestamp64Milli({to:Int64})"
            " AND unique_req_id IN (SELECT toFixedString(unhex(arrayJoin({ids:Array(String)})), 16))"
        )
        ids = [items[row].identity.hex() for row in part.rows]
        present: set[str] = set()
        for start in range(0, len(ids), IDS_A_QUESTION):
            question: dict[str, Value] = {
                "from": min(times),
                "to": max(times),
                "ids": ids[start : start + IDS_A_QUESTION],
            }
            result = await self._store.ask(sql, question, timeout_seconds=self._timeout_seconds)
            present.update(str(row[0]) for row in result.rows)
        return present
