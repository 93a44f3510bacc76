"""Carries a plan out: every row of it is in the store exactly once, or a dead letter, when it returns.

What makes it exact (each point was a loss or a double when left out):

* An OK is believed only for a token that was never sent before. The engine writes the token to its log
  before the rows are in place; killed between the two, it answers OK to a repeat and adds nothing.
* After an error, a time-out or a takeover the state is unknown. Then: send once more under the same token
  (which stops a former owner's insert that is still on its way), wait until none of the plan's inserts
  runs in the server, count the plan's ids in the store, and plan what is missing under a new token.
* The plan in Redis changes before the store does, by a script that checks the epoch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app import metrics
from app.partition import Partition
from app.store import Store, StoreError, StoreRefused, StoreUnavailable, Value
from workers import plan as plans
from workers import verdict
from workers.patience import Patience
from workers.plan import Item, Part, Plan
from workers.rows import INSERT, INSERT_SETTINGS

# The data is at fault: nothing was written, and another try would say the same.
DATA_CODES = frozenset(
    {6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 349, 353, 376, 441, 467, 566, 645}
)
# The installation is at fault: no row can be blamed, so it is tried until somebody mends it.
BLOCKING_CODES = frozenset({16, 47, 60, 62, 81, 115, 164, 192, 193, 194, 242, 243, 291, 497, 516})
IDS_A_QUESTION = 1000  # the address of a request holds 64 KiB
MAX_DEAD_ROWS = 100  # of one plan, once they outnumber the stored: then it is our bug, not the data's

log = structlog.get_logger()


class MostlyDead(Exception):
    """Too much of one batch was refused: the drain must stop rather than set everything aside."""


class Inserter:
    """Inserts for one partition. `fence` proves the lease before each insert and raises LeaseLost."""

    def __init__(
        self,
        store: Store,
        partition: Partition,
        fence: Callable[[], Awaitable[None]],
        *,
        timeout_seconds: float,
        max_retries: int,
        retry_delay_seconds: float,
    ) -> None:
        self._store = store
        self._partition = partition
        self._fence = fence
        self._timeout_seconds = timeout_seconds
        self._max_retries = max_retries
        self._pause = Patience(fence, retry_delay_seconds).pause

    async def carry_out(self, plan: Plan, items: Sequence[Item], *, resumed: bool) -> None:
        """Store every row of `plan` once; rows that the store refuses become dead letters of the plan.

        `plan` is already in Redis. `resumed` says that another life may have sent its inserts before.
        Errors: LeaseLost, MostlyDead, redis errors. The store being away is not an error: it is waited for.
        """
        if resumed:
            metrics.RECOVERIES.inc()
            rowless = plans.set_rowless_aside(plan, items)
            plan.parts = [part for old in plan.parts for part in await self._settle(plan, old, items)]
            for row in rowless:
                verdict.promote(plan, items, row)
            await self._save(plan)
        failures = 0
        while plan.parts:
            part = plan.parts[0]
            try:
                await self._send(plan, part, items)
            except StoreUnavailable as error:
                failures += 1
                await self._pause(failures, error)
                remaining = await self._settle(plan, part, items)
            except StoreRefused as error:
                failures += 1
                remaining = await self._after_refusal(plan, part, items, error, failures)
                failures = failures if len(remaining) == 1 else 0
            else:
                failures = 0
                plan.stored += len(part.rows)
                plan.parts.pop(0)
                continue
            # Halves go to the end, so that good rows are stored before bad ones are judged by their share.
            plan.parts = (
                [*remaining, *plan.parts[1:]] if len(remaining) == 1 else [*plan.parts[1:], *remaining]
            )
            await self._save(plan)

    async def _send(self, plan: Plan, part: Part, items: Sequence[Item]) -> None:
        """One insert of one part, fenced and timed."""
        await self._fence()
        began = time.monotonic()
        token = plans.token(part, items)
        try:
            await self._store.insert(
                INSERT,
                plans.block(part, items),
                token=token,
                query_id=f"{plan.id}-{token[:16]}-{time.monotonic_ns():x}",
                settings=INSERT_SETTINGS,
                timeout_seconds=self._timeout_seconds,
            )
        except StoreError as error:
            kind = "refused" if isinstance(error, StoreRefused) else "unavailable"
            metrics.INSERT_FAILURES.labels(kind).inc()
            raise
        metrics.INSERT_SECONDS.observe(time.monotonic() - began)
        metrics.INSERT_ROWS.observe(len(part.rows))

    async def _after_refusal(
        self, plan: Plan, part: Part, items: Sequence[Item], error: StoreRefused, failures: int
    ) -> list[Part]:
        """What takes the place of `part` after the server's own exception: a retry, halves, or nothing."""
        may_retry = error.code in BLOCKING_CODES or failures <= self._max_retries
        if error.code not in DATA_CODES and may_retry:
            await self._pause(failures, error)
            return await self._missing(plan, part, items)
        missing = await self._missing(plan, part, items)
        if not missing:
            return []
        if len(missing[0].rows) > 1:
            log.info("batch halved", rows=len(missing[0].rows), code=error.code)
            return plans.halves(missing[0])
        if len(plan.dead) >= MAX_DEAD_ROWS and len(plan.dead) > plan.stored:
            raise MostlyDead(error.message)
        plan.dead.append((missing[0].rows[0], error.message))
        verdict.promote(plan, items, missing[0].rows[0])
        log.error("event set aside", code=error.code, plan=plan.id)
        return []

    async def _settle(self, plan: Plan, part: Part, items: Sequence[Item]) -> list[Part]:
        """Find out what became of an insert of unknown state; the part that is still missing, if any."""
        failures = 0
        while True:
            try:
                await self._send(plan, part, items)
            except StoreRefused as error:
                # The data's fault again: no former owner's copy can have succeeded or will.
                if error.code in DATA_CODES or failures >= self._max_retries:
                    break
                failures += 1
                await self._pause(failures, error)
            except StoreUnavailable as error:
                failures += 1
                await self._pause(failures, error)
            else:
                break
        return await self._missing(plan, part, items)

    async def _missing(self, plan: Plan, part: Part, items: Sequence[Item]) -> list[Part]:
        """The rows of `part` that the store does not hold, as a part with a new token; [] when none."""
        failures = 0
        while True:
            try:
                await self._wait_until_quiet(plan.id)
                present = await self._present(part, items)
                break
            except StoreError as error:
                failures += 1
                await self._pause(failures, error)
        missing = [row for row in part.rows if plans.identity(items[row]).hex() not in present]
        plan.stored += len(part.rows) - len(missing)
        return [Part(missing, part.attempt + 1)] if missing else []

    async def _wait_until_quiet(self, plan_id: str) -> None:
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
        ids = [plans.identity(items[row]).hex() for row in part.rows]
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

    async def _save(self, plan: Plan) -> None:
        await self._partition.save_plan(plans.encode(plan))
