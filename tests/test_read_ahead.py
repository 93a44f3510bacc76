"""The next batch is read while the insert of the one before is under way: nothing of it is anywhere but in memory.

Safeguards: the look-up of event ids, the plan and the fence come after the acknowledgement before, whatever
was read ahead; and a drain that ends for any reason in between forgets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.partition import Partition
from app.store import Store
from app.stream import Record
from tests.pipeline_kit import Bench, Fault, assert_conserved, queued, record
from tests.pipeline_steps import Open, Real, assert_stored, hang, opened, refusing
from tests.test_event_id import event, settled
from tests.waiting import async_until
from workers import drain as drains
from workers import plan as plans
from workers.reading import Batch, Reader

__all__ = ["opened"]

ROWS = 100  # of one batch


class Watch:
    """Which batches were read to the end, in the drains of this test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.filled: list[Batch] = []
        real = Reader.fill

        async def fill(reader: Reader, batch: Batch) -> None:
            await real(reader, batch)
            if batch.items and batch not in self.filled:
                self.filled.append(batch)

        monkeypatch.setattr(Reader, "fill", fill)

    async def has_read(self, batches: int) -> bool:
        return len(self.filled) >= batches


def waiting_insert(watch: Watch, batches: int, then: Fault) -> Fault:
    """An insert that is under way until so many batches have been read."""

    async def fault(real: Real) -> None:
        await async_until(lambda: watch.has_read(batches), 10, "the next batch, read ahead")
        await then(real)

    return fault


async def real_insert(real: Real) -> None:
    await real()


async def put_batches(made: Bench, count: int) -> None:
    for _ in range(count):
        await made.put([record() for _ in range(ROWS)])


def test_the_next_batch_is_read_during_the_insert_and_planned_after_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches at most are in memory, and one at a time is in a plan."""

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            order: list[str] = []

            def note(name: str) -> None:
                real = getattr(Partition, name)

                async def noted(self: Partition, *arguments: object) -> None:
                    order.append(name)
                    await real(self, *arguments)

                monkeypatch.setattr(Partition, name, noted)

            note("save_plan")
            note("acknowledge")
            most = 0

            async def third(real: Real) -> None:
                nonlocal most
                await async_until(lambda: watch.has_read(2), 10)
                most = len(watch.filled)
                await real()

            await put_batches(made, 4)
            made.store.faults = [third]
            async with made.draining("a"):
                await assert_stored(made, 4 * ROWS)
            assert most == 2
            assert order == ["save_plan", "acknowledge"] * 4
            assert made.store.inserts == 4

    asyncio.run(run())


@pytest.mark.parametrize("slot", ["a", "b"])
@pytest.mark.parametrize("is_stored", [False, True], ids=["before the rows", "after the rows"])
def test_a_crash_with_a_batch_in_hand(
    opened: Open, monkeypatch: pytest.MonkeyPatch, slot: str, is_stored: bool
) -> None:
    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)

            async def crash(real: Real) -> None:
                if is_stored:
                    await real()
                reached.set()
                await hang(real)

            reached = asyncio.Event()
            await put_batches(made, 3)
            made.store.faults = [waiting_insert(watch, 2, crash)]
            async with made.draining("a"):
                await asyncio.wait_for(reached.wait(), 10)
            assert len(await queued(made.redis, made.keys)) == 3 * ROWS
            async with made.draining(slot):
                await assert_stored(made, 3 * ROWS)

    asyncio.run(run())


def test_a_lease_that_is_lost_with_a_batch_in_hand(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: a new owner reads for itself; the former one neither plans nor inserts what it had read."""

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            asleep, wake = asyncio.Event(), asyncio.Event()

            async def sleep(real: Real) -> None:
                asleep.set()
                await wake.wait()
                await real()

            await put_batches(made, 3)
            made.store.faults = [waiting_insert(watch, 2, sleep)]
            former = asyncio.create_task(made.drain("a").run())
            await asyncio.wait_for(asleep.wait(), 10)
            await made.redis.delete(made.keys.lease)
            async with made.draining("b"):
                await assert_stored(made, 3 * ROWS)
                inserts = made.store.inserts
                wake.set()
                await async_until(lambda: is_idle(made, inserts), 10)
                former.cancel()
                await asyncio.gather(former, return_exceptions=True)
                await made.put([record()])
                await assert_stored(made, 3 * ROWS + 1)

    asyncio.run(run())


async def is_idle(made: Bench, inserts: int) -> bool:
    return made.store.inserts == inserts


def test_a_partition_that_is_given_back_with_a_batch_in_hand(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch whose insert is under way is finished, what was read ahead is left to the next owner."""

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            drain = made.drain("a")

            async def give_back(real: Real) -> None:
                drain.give_back()
                await real()

            await put_batches(made, 3)
            made.store.faults = [waiting_insert(watch, 2, give_back)]
            await asyncio.wait_for(drain.run(), 10)
            assert await made.store.stored() == (ROWS, ROWS)
            assert not await made.redis.exists(made.keys.lease, made.keys.plan)
            assert len(await queued(made.redis, made.keys)) == 2 * ROWS
            async with made.draining("b"):
                await assert_stored(made, 3 * ROWS)

    asyncio.run(run())


def test_a_stop_with_a_batch_in_hand_stores_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            stop = asyncio.Event()

            async def stop_now(real: Real) -> None:
                stop.set()
                await real()

            await put_batches(made, 3)
            made.store.faults = [waiting_insert(watch, 2, stop_now)]
            await asyncio.wait_for(made.drain("a", stop=stop).run(), 10)
            await assert_stored(made, 3 * ROWS)

    asyncio.run(run())


def test_a_halt_forgets_what_was_read_ahead(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that halts the drain is settled again and again; the one behind it must not overtake it."""
    monkeypatch.setattr(plans, "MAX_DEAD_ROWS", 5)
    monkeypatch.setattr(drains, "HALT_SECONDS", 0.05)

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            first = [record() for _ in range(ROWS)]
            await made.put(first)
            await put_batches(made, 1)
            mended = asyncio.Event()

            async def refuse(real: Real) -> None:
                if not mended.is_set():
                    made.store.faults.append(refuse)
                    await refusing(117)(real)
                await real()

            made.store.faults = [waiting_insert(watch, 2, refuse)]
            async with made.draining("a"):
                await async_until(lambda: made.redis.hget(made.keys.progress, "halted"), 20, "a halt")
                assert (await queued(made.redis, made.keys))[:ROWS] == first
                assert await made.store.stored() == (0, 0)
                mended.set()
                await async_until(made.is_empty, 20, "an empty stream")
            await assert_conserved(made.redis, made.keys)
            rows, distinct = await made.store.stored()
            assert rows == distinct

    asyncio.run(run())


def copies(count: int, name: Callable[[int], str]) -> list[Record]:
    return [event(name(number)) for number in range(count)]


def test_copies_in_the_batch_that_was_read_ahead(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: ids are asked for when those of the batch before are written, not when entries are read."""

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            for _ in range(3):
                await made.put(copies(ROWS, lambda number: f"id-{number % 60}"))
            made.store.faults = [waiting_insert(watch, 2, real_insert)]
            async with made.draining("a"):
                await settled(made, stored=60, duplicates=3 * ROWS - 60)

    asyncio.run(run())


def test_a_crash_between_two_batches_of_copies(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the first are stored, its ids are not yet; the second, with their copies, is in hand."""

    async def run() -> None:
        async with opened(max_batch_size=ROWS) as made:
            watch = Watch(monkeypatch)
            for _ in range(2):
                await made.put(copies(ROWS, lambda number: f"id-{number}"))
            reached = asyncio.Event()

            async def crash(real: Real) -> None:
                reached.set()
                await hang(real)

            made.store.faults = [waiting_insert(watch, 2, real_insert), crash]
            async with made.draining("a"):
                await asyncio.wait_for(reached.wait(), 10)
            assert await made.store.stored() == (ROWS, ROWS)
            assert await made.store.ask("SELECT count() FROM event_ids") == await zero(made.store)
            async with made.draining("b"):
                await settled(made, stored=ROWS, duplicates=ROWS)

    asyncio.run(run())


async def zero(store: Store) -> object:
    return await store.ask("SELECT count() FROM event_ids WHERE 0")
