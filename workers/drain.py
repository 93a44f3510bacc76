"""The drain: stream -> store. Lease, recover the plan, read, plan, insert, acknowledge; then again.

One owner for each partition; which process owns which is `workers.sharing`'s. The order of the steps is the
promise:

    1. look up event ids    which events are copies of stored ones, and which are erased: verdicts that the
       and tombstones       plan keeps
    2. plan in Redis        a crash after this is settled by counting (workers.insert)
    3. rows in the store    a crash after this is settled the same way: nothing is inserted twice
    4. ids in the store     and the fates of duplicates; a crash after this writes them again
    5. acknowledge          plan, entries, dead letters and ledger change in one script

While 3 is under way the next batch is read and its rows are made, in memory only (`workers.reading`); its own
step 1 comes after this one's step 5.

A kill at any line is safe. A stop finishes what the stream holds, for a bounded time, and gives the lease
back; so does a partition that another drain shall have, after the batch in hand.
"""

from __future__ import annotations

import asyncio
import time
import uuid

import structlog

from app import fates, ledger, metrics, redis_client
from app.enrich import Geography
from app.fates import Fate
from app.partition import DeadLettersFull, LeaseLost, Partition
from app.redis_client import UNREACHABLE
from app.retention import oldest_ms
from app.settings import Settings
from app.store import Store
from workers import plan as plans
from workers import verdict
from workers.event_ids import EventIds
from workers.insert import Inserter
from workers.items import Items, read_items
from workers.pace import Pace
from workers.patience import Patience
from workers.plan import Halted
from workers.reading import Batch, Reader
from workers.rows import Rows
from workers.store_proof import PROOF_SECONDS, StoreProof
from workers.tombstones import Tombstones

IDLE_WAIT_MS = 500  # one blocking read; also how often an idle drain proves that it works
DRAIN_ON_STOP_SECONDS = 8.0  # to empty the stream on SIGTERM; the rest waits in Redis
HALT_SECONDS = 30.0  # until a batch that cannot be acknowledged is tried again
RECONNECT_SECONDS = 0.2

log = structlog.get_logger()


class PartitionDrain:
    """Drains one partition while `run` runs; `stop` ends it with an empty stream, `give_back` without."""

    def __init__(
        self,
        partition: Partition,
        store: Store,
        geography: Geography,
        settings: Settings,
        stop: asyncio.Event,
        *,
        tombstones: Tombstones,
        proof: StoreProof | None = None,
    ) -> None:
        self.owner = partition.owner
        self._partition = partition
        self._store = store
        self._proof = proof or StoreProof(store)
        self._geography = geography
        self._consumer = settings.consumer
        self._stop = stop
        self._gives_back = asyncio.Event()
        self._retention_days = settings.store.retention_days
        self._lease_ms = int(settings.consumer.lease_timeout * 1000)
        self._pace = Pace(settings.consumer.max_batch_timeout)
        self._next_proof = 0.0
        self._timeout_seconds = settings.store.insert_timeout
        self._patience = Patience(self._fence, settings.consumer.retry_delay)
        self._reader = Reader(partition, geography, settings.consumer)
        self._tombstones = tombstones
        self._event_ids = EventIds(store, timeout_seconds=self._timeout_seconds)
        self._inserter = Inserter(
            store,
            partition,
            self._fence,
            timeout_seconds=self._timeout_seconds,
            max_retries=settings.consumer.max_retries,
            retry_delay_seconds=settings.consumer.retry_delay,
        )

    def give_back(self) -> None:
        """Another drain shall have the partition: finish the batch in hand, release the lease, return."""
        self._gives_back.set()

    async def run(self) -> None:
        """Own the partition whenever that is possible, until asked to stop or to give it back."""
        failures = 0
        self._gives_back.clear()
        while not self._is_leaving:
            try:
                if await self._partition.acquire(self._lease_ms):
                    failures = 0
                    log.info("partition taken", owner=self.owner, epoch=self._partition.epoch)
                    await self._own()
                else:
                    await self._sleep(self._lease_ms / 3000)
            except LeaseLost:
                log.warning("partition lost to another drain", owner=self.owner)
            except UNREACHABLE as error:
                failures += 1
                if failures & (failures - 1) == 0:  # at each power of two: the cause must not be buried
                    log.warning("redis failed, trying again", error=type(error).__name__, failures=failures)
                await self._sleep(RECONNECT_SECONDS)

    @property
    def _is_leaving(self) -> bool:
        return self._stop.is_set() or self._gives_back.is_set()

    async def _own(self) -> None:
        tasks = [asyncio.create_task(work) for work in (self._renew(), self._loop(), self._give_up())]
        try:
            # Whichever ends first ends the others: without the lease there is nothing to do.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await redis_client.stop_tasks(*tasks)
            await asyncio.gather(*tasks, return_exceptions=True)  # two may have failed of the same cause
        await self._partition.release()

    async def _give_up(self) -> None:
        """Return when leaving has taken too long: a store that is away would make it last for ever."""
        await self._leaving()
        await asyncio.sleep(DRAIN_ON_STOP_SECONDS)

    async def _leaving(self) -> None:
        """Return when this drain shall leave its partition."""
        waits = [asyncio.create_task(event.wait()) for event in (self._stop, self._gives_back)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            await self._fence()

    async def _fence(self) -> None:
        await self._partition.renew(self._lease_ms)

    async def _loop(self) -> None:
        while not self._gives_back.is_set():
            try:
                await self._recover()
                await self._work()
            except (Halted, DeadLettersFull) as error:
                await self._halt(error)
            else:
                return

    async def _work(self) -> None:
        """Batch after batch, until the stream is empty and a stop was asked for."""
        batch = Batch()
        while not self._gives_back.is_set():
            is_stopping = self._stop.is_set()
            if batch.items or await self._partition.wait(1 if is_stopping else IDLE_WAIT_MS):
                seconds = 0.0 if is_stopping else self._pace.waits(time.monotonic())
                if seconds > PROOF_SECONDS:  # or who asks for readiness would take it for dead
                    await self._prove()
                if seconds > 0:
                    await self._sleep(min(seconds, PROOF_SECONDS))
                else:
                    batch = await self._batch(batch)
            elif is_stopping:
                return
            else:
                await self._prove()

    async def _halt(self, error: Halted | DeadLettersFull) -> None:
        """Say loudly that nothing is acknowledged, and keep the partition: no other drain could do better."""
        log.error("the drain is halted: nothing is acknowledged", reason=str(error)[:500], owner=self.owner)
        await self._partition.record_halt(str(error)[:500])
        await self._sleep(HALT_SECONDS)
        if self._stop.is_set():
            self._gives_back.set()

    async def _recover(self) -> None:
        """Settle the plan that a former owner, or a former life, left behind."""
        payload = await self._partition.load_plan()
        if payload is None:
            return
        plan = plans.decode(payload)
        log.info("settling an unfinished plan", plan=plan.id, rows=sum(len(part.rows) for part in plan.parts))
        entries = await self._partition.read_range(plan.first, plan.last)
        rows = Rows()
        items = Items(item for entry in entries for item in read_items(entry, self._geography, rows))
        plans.check_same(plan, items)
        await self._carry_out(plan, items, resumed=True)

    async def _batch(self, batch: Batch | None = None) -> Batch:
        """Fill `batch`, store it, acknowledge it. Returns the next one, read ahead when there is a backlog.

        However this ends early, what was read ahead is forgotten with it: there is no trace of it anywhere.
        """
        batch = batch or Batch()
        await self._reader.fill(batch)
        if not batch.items:
            return Batch()
        plans.check_readable(batch.items)
        began = time.monotonic()
        await self._tombstones.refresh()
        hidden = await self._tombstones.hidden(batch.items)
        known = await self._patience.insist(lambda: self._event_ids.not_erased(batch.items, hidden))
        erased = self._tombstones.find(item.record for item in batch.items)
        oldest = oldest_ms(self._retention_days, time.time_ns() // 1_000_000)
        expired = verdict.find_expired(batch.items, oldest, erased)
        gone = {*(position for position, _ in erased), *expired}
        keyed = [row for row in batch.items.keyed if row not in gone]
        duplicates = verdict.find_duplicates(batch.items, keyed, known)
        plan = plans.make(uuid.uuid4().hex, batch.items, duplicates, erased, expired)
        await self._partition.save_plan(plans.encode(plan))
        following, ahead = Batch(batch.after), None
        if batch.is_full:
            ahead = asyncio.create_task(self._reader.fill_ahead(following, batch.spent))
        try:
            await self._carry_out(plan, batch.items, resumed=False)
            if ahead is not None and not self._gives_back.is_set():
                await ahead
            elif ahead is not None:
                following = Batch()  # reading is cut off, maybe in the middle of an entry
        finally:
            if ahead is not None:
                await redis_client.stop_tasks(ahead)
        self._pace.inserted(began, time.monotonic(), is_backlog=batch.is_full)
        if not following.items:
            return Batch()  # from the beginning: whatever is in the stream by then is unacknowledged
        following.spent = batch.items if following.is_full else Items()
        return following

    async def _carry_out(self, plan: plans.Plan, items: Items, *, resumed: bool) -> None:
        await self._inserter.carry_out(plan, items, resumed=resumed)
        await self._patience.insist(lambda: self._event_ids.remember(plan, items))
        await self._patience.insist(lambda: self._write_fates(plan, items))
        await self._partition.acknowledge(
            plan.last, plans.ledger_changes(plan, items), plans.dead_letters(plan, items)
        )
        metrics.ROWS_STORED.inc(plan.stored)
        metrics.DEAD_LETTERS.inc(len(plan.dead))
        metrics.DUPLICATES.inc(len(plan.duplicates))
        metrics.ERASED.inc(len(plan.erased))
        oldest_ms = int(plan.first.partition("-")[0])
        metrics.FRESHNESS_SECONDS.observe(max(0.0, time.time() - oldest_ms / 1000))
        if time.monotonic() > self._next_proof:
            await self._record_proof()

    async def _write_fates(self, plan: plans.Plan, items: Items) -> None:
        fated = [(row, ledger.DUPLICATE, first_copy) for row, first_copy in plan.duplicates]
        fated += [(row, ledger.EXPIRED, "") for row in plan.expired]
        found = [
            Fate(
                *(record.unique_req_id, record.project_id, items[row].customer_identifier),
                *(fate, detail, record.time_recorded),
            )
            for row, fate, detail in fated
            if (record := items[row].record) is not None
        ]
        found += [
            fates.erased(record.unique_req_id, record.project_id, erasure, "stream", record.time_recorded)
            for row, erasure in plan.erased
            if (record := items[row].record) is not None
        ]
        if found:
            await fates.write(self._store, found, timeout_seconds=self._timeout_seconds)

    async def _prove(self) -> None:
        """Idle: show that the store answers, so that readiness means more than a living process."""
        if time.monotonic() > self._next_proof and await self._proof.holds():
            await self._record_proof()

    async def _record_proof(self) -> None:
        self._next_proof = time.monotonic() + PROOF_SECONDS
        await self._partition.prove_progress(time.time_ns() // 1_000_000)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake up at once when asked to leave."""
        try:
            async with asyncio.timeout(seconds):
                await self._leaving()
        except TimeoutError:
            return
