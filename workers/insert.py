"""Carries a plan out: every row of it is in the store exactly once, or a dead letter, when it returns.

What makes it exact (each point was a loss or a double when left out):

* An OK is believed only for a token that was never sent before. The engine writes the token to its log
  before the rows are in place; killed between the two, it answers OK to a repeat and adds nothing.
* After an error, a time-out or a takeover the state is unknown. Then: send once more under the same token
  (which stops a former owner's insert that is still on its way), wait until none of the plan's inserts
  runs in the server, count the plan's ids in the store, and plan what is missing under a new token.
* A store may be short of memory, of parts or of files just then, and refuse to have the token used up. Then a
  tiny block uses it up in place of the big one (`_burn`): under a new token the old one must be dead.
* The plan in Redis changes before the store does, by a script that checks the epoch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

import structlog

from app import metrics
from app.enrich import Geography
from app.partition import Partition
from app.store import Store, StoreError, StoreRefused, StoreUnavailable
from app.stream import Record
from workers import plan as plans
from workers import verdict
from workers.held import Held
from workers.items import Items
from workers.patience import Patience
from workers.plan import Halted, Part, Plan
from workers.rows import INSERT, INSERT_SETTINGS, to_row

# The data is at fault: nothing was written, and another try would say the same.
DATA_CODES = frozenset(
    {6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 349, 353, 376, 441, 467, 469, 566, 645}
)
# The installation is at fault: no row can be blamed, so it is tried until somebody mends it.
BLOCKING_CODES = frozenset({16, 47, 60, 62, 81, 115, 164, 192, 193, 194, 242, 243, 291, 497, 516})
RETRIES_OF_A_ROW = 1  # of a code that has outlived the plan's retries: no row dies of a moment of the store's
NOBODY = ""  # no project has this id

log = structlog.get_logger()


class MostlyDead(Halted):
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
        self._outlived: set[int] = set()  # codes for which the plan has waited its retries already
        patience = Patience(fence, retry_delay_seconds)
        self._pause = patience.pause
        self._held = Held(store, fence, patience, timeout_seconds=timeout_seconds)

    async def carry_out(self, plan: Plan, items: Items, *, resumed: bool) -> None:
        """Store every row of `plan` once; rows that the store refuses become dead letters of the plan.

        `plan` is already in Redis. `resumed` says that another life may have sent its inserts before.
        Errors: LeaseLost, MostlyDead, redis errors. The store being away is not an error: it is waited for.
        """
        self._outlived = set()
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

    async def _send(self, plan: Plan, part: Part, items: Items, *, instead: bytes = b"") -> None:
        """One insert of one part, or of another block under its token; fenced and timed."""
        await self._fence()
        began = time.monotonic()
        token = plans.token(part, items)
        try:
            await self._store.insert(
                INSERT,
                instead or plans.block(part, items),
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
        if not instead:
            metrics.INSERT_ROWS.observe(len(part.rows))

    async def _after_refusal(
        self, plan: Plan, part: Part, items: Items, error: StoreRefused, failures: int
    ) -> list[Part]:
        """What takes the place of `part` after the server's own exception: a retry, halves, or nothing."""
        if error.code in BLOCKING_CODES or (
            error.code not in DATA_CODES and failures <= self._retries(error.code, part)
        ):
            await self._pause(failures, error)
            return await self._held.missing(plan, part, items)
        if error.code not in DATA_CODES:
            # Whose fault is it? While the store takes nothing from anybody, this waits and blames no row.
            await self._burn(plan, part, items)
            self._outlived.add(error.code)
        if error.code in DATA_CODES and len(plans.months(part, items)) == 1:
            # Never sent before under this token, one block, one part: it was refused whole. Counting would
            # double the time in which a bad row is found.
            missing = [Part(part.rows, part.attempt + 1)]
        else:
            missing = await self._held.missing(plan, part, items)
        if not missing:
            return []
        if len(missing[0].rows) > 1:
            log.info("batch halved", rows=len(missing[0].rows), code=error.code)
            return plans.halves(missing[0])
        # Letters that were put back too early go where they were; that should stop nobody's events.
        died = sum(not items[row].was_dead for row, _ in plan.dead)
        if died >= plans.MAX_DEAD_ROWS and died > plan.stored:
            raise MostlyDead(error.brief)
        plan.dead.append((missing[0].rows[0], error.message))
        verdict.promote(plan, items, missing[0].rows[0])
        log.error(
            "the store refuses an event: it will be set aside with its batch", code=error.code, plan=plan.id
        )
        return []

    def _retries(self, code: int, part: Part) -> int:
        """How often `part` is tried again after `code`: the whole wait is charged once for each plan."""
        if code not in self._outlived:
            return self._max_retries
        return RETRIES_OF_A_ROW if len(part.rows) == 1 else 0

    async def _settle(self, plan: Plan, part: Part, items: Items) -> list[Part]:
        """Find out what became of an insert of unknown state; the part that is still missing, if any."""
        failures = 0
        while True:
            try:
                await self._send(plan, part, items)
                break
            except StoreError as error:
                if _blames_data(error):
                    break  # no copy can have succeeded or will
                if isinstance(error, StoreRefused) and failures >= self._retries(error.code, part):
                    self._outlived.add(error.code)
                    await self._burn(plan, part, items)
                    break
                failures += 1
                await self._pause(failures, error)
        return await self._held.missing(plan, part, items)

    async def _burn(self, plan: Plan, part: Part, items: Items) -> None:
        """Use up the token of `part`: afterwards no copy of its insert adds a row, however late it comes.

        Tiny blocks are sent in its place, since the engine compares tokens and not rows: the part's own first
        row, which may go in where thousands may not; and a row of nobody, which is refused only while the
        store takes nothing at all. So when this returns, the store takes rows again.
        """
        blocks = burners(part, items)
        failures = 0
        while True:
            instead = blocks[failures % len(blocks)]
            try:
                await self._send(plan, part, items, instead=instead)
                break
            except StoreError as error:
                if _blames_data(error) and instead is blocks[0]:
                    break  # the row is in every copy of the insert, so each of them is refused whole
                failures += 1
                await self._pause(failures, error)
        if failures:
            await self._forget_nobody()

    async def _forget_nobody(self) -> None:
        """No query can ask for nobody's rows; they are removed for tidiness, and may wait."""
        try:
            await self._store.command(
                "ALTER TABLE events DELETE WHERE project_id = {nobody:String}", {"nobody": NOBODY}
            )
        except StoreError as error:
            log.warning("rows of nobody are left in the store", error=error.brief)

    async def _save(self, plan: Plan) -> None:
        await self._partition.save_plan(plans.encode(plan))


def burners(part: Part, items: Items) -> list[bytes]:
    """The blocks that may be sent in place of `part`: one row for each month, its own or nobody's.

    The engine keeps tokens by partition of the table, which is the month of `time_recorded`.
    """
    firsts = [(items[row].record, items[row].row) for row in plans.months(part, items).values()]
    own = [data for _, data in firsts if data is not None]
    stand_ins = [
        Record(os.urandom(12), 1, record.time_recorded, NOBODY, "", "", "", "", b'{"event_name":"-"}')
        for record, _ in firsts
        if record is not None
    ]
    return [b"".join(own), b"".join(to_row(one, Geography("")).data for one in stand_ins)]


def _blames_data(error: StoreError) -> bool:
    return isinstance(error, StoreRefused) and error.code in DATA_CODES
