"""Tokens that are used up while the store refuses: a paused insert that wakes up afterwards adds nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from app.partition import LeaseLost
from app.store import StoreRefused, StoreUnavailable
from app.stream import Record
from tests.pipeline_kit import POISON, Bench, dead_letters, ledger, record
from tests.pipeline_steps import Open, Real, assert_stored, opened, refusing, start
from tests.waiting import async_until
from workers import insert
from workers.insert import burners
from workers.plan import Part

__all__ = ["opened"]

RETRIES = 3  # of `opened`
MONTH_MS = 32 * 86_400_000


class Zombie:
    """A drain that stands still with an insert in hand, until `wake`."""

    def __init__(self, made: Bench) -> None:
        self._made = made
        self._woken, self._asleep = asyncio.Event(), asyncio.Event()
        self.adds: Callable[[], Awaitable[None]] | None = None

    async def fall_asleep(self, records: list[Record]) -> None:
        async def sleep_before(real: Real) -> None:
            self._asleep.set()
            await self._woken.wait()
            await real()

        await self._made.put(records)
        self._made.store.faults = [sleep_before]
        drain = self._made.drain("zombie")
        assert await drain._partition.acquire(300)  # and no renewer: the whole process stands still
        self._task = asyncio.create_task(drain._batch())
        await asyncio.wait_for(self._asleep.wait(), 5)

    async def wake(self) -> None:
        """Its insert is executed now; then it finds out that it owns nothing any more."""
        self._woken.set()
        with pytest.raises((LeaseLost, StoreRefused)):
            await asyncio.wait_for(self._task, 10)


@pytest.mark.parametrize("code", [241, 252, 1002])
def test_a_store_that_refuses_all_repeats_of_the_block(opened: Open, code: int) -> None:
    """Safeguard: _burn, with a row of the block; before, the block went in twice under two tokens."""

    async def run() -> None:
        async with opened() as made:
            zombie = Zombie(made)
            await zombie.fall_asleep([record() for _ in range(200)])
            made.store.faults = [refusing(code)] * (RETRIES + 1)
            async with made.draining("b"):
                await assert_stored(made, 200)
            await zombie.wake()
            assert await made.store.stored() == (200, 200)

    asyncio.run(run())


def test_a_store_that_refuses_everything_for_a_while(opened: Open) -> None:
    """Safeguard: _burn tries until something is accepted; a lone event is no dead letter meanwhile."""

    async def run() -> None:
        async with opened() as made:
            zombie = Zombie(made)
            await zombie.fall_asleep([record()])
            made.store.faults = [refusing(252)] * 12
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
                assert not await dead_letters(made.redis, made.keys)
            await zombie.wake()
            assert await of_somebody(made) == 1

    asyncio.run(run())


def test_answers_that_are_lost_while_burning(opened: Open) -> None:
    """Safeguard: whichever block came first, the count decides what is there."""

    async def lose_answer(real: Real) -> None:
        await real()
        raise StoreUnavailable("lost")

    async def run() -> None:
        async with opened() as made:
            zombie = Zombie(made)
            await zombie.fall_asleep([record() for _ in range(50)])
            made.store.faults = [*[refusing(241)] * (RETRIES + 1), lose_answer, lose_answer]
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
            await zombie.wake()
            assert await of_somebody(made) == 50

    asyncio.run(run())


def test_rows_that_only_this_store_refuses_are_dead_and_stay_dead(opened: Open) -> None:
    """Safeguard: a row of nobody burns the token, and proves that the store takes others' rows."""

    async def run() -> None:
        async with opened() as made:
            zombie = Zombie(made)
            await zombie.fall_asleep([record(b'{"event_name":"odd","n":%d}' % n) for n in range(3)])
            real_insert = made.store.insert

            async def refuse_odd(statement: str, block: bytes, **options: object) -> None:
                if b'"odd"' in block and not woken:
                    raise StoreRefused(1001, "std::exception")
                await real_insert(statement, block, **options)  # type: ignore[arg-type]

            woken = False
            made.store.insert = refuse_odd  # type: ignore[method-assign]
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
            assert len(await dead_letters(made.redis, made.keys)) == 3
            woken = True
            await zombie.wake()
            assert await of_somebody(made) == 0, "dead letters that are stored as well would have two fates"

    asyncio.run(run())


def test_a_row_of_bad_data_needs_no_burning(opened: Open) -> None:
    """Safeguard: who refuses one row of a block for its data refuses every copy of the block."""

    async def run() -> None:
        async with opened() as made:
            zombie = Zombie(made)
            await zombie.fall_asleep([record(POISON), *[record() for _ in range(20)]])
            made.store.faults = [refusing(241)] * (RETRIES + 1)
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
            assert await made.store.stored() == (20, 20)
            await zombie.wake()
            assert await made.store.stored() == (20, 20)

    asyncio.run(run())


def test_every_month_of_a_block_is_burnt(opened: Open) -> None:
    """Safeguard: the engine keeps tokens by partition of the table."""

    async def run() -> None:
        async with opened() as made:
            now = time.time_ns() // 1_000_000
            records = [record(recorded=now - n % 3 * MONTH_MS) for n in range(60)]
            zombie = Zombie(made)
            await zombie.fall_asleep(records)
            made.store.faults = [refusing(241)] * (RETRIES + 1)
            async with made.draining("b"):
                await assert_stored(made, 60)
            await zombie.wake()
            assert await made.store.stored() == (60, 60)

    asyncio.run(run())


def test_the_rows_of_nobody_are_removed(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record()])
            part = work.plan.parts[0]
            _, nobody = burners(part, work.items)
            await work.inserter._send(work.plan, part, work.items, instead=nobody)
            assert (await made.store.stored())[0] == 1
            await work.inserter._forget_nobody()

            async def is_gone() -> bool:
                return await made.store.stored() == (0, 0)

            await async_until(is_gone, 10)

    asyncio.run(run())


def test_a_passing_error_of_one_row_is_found_without_waiting_at_every_level(opened: Open) -> None:
    """Safeguard: a code's retries are charged once. Not retried for ever, and not 13 times as long as once."""

    async def run() -> None:
        async with opened(retry_delay=0.05, max_retries=5) as made:
            odd = record(b'{"event_name":"odd"}')
            work = await start(made, [*[record() for _ in range(700)], odd, *[record() for _ in range(299)]])
            real_insert = made.store.insert

            async def refuse_odd(statement: str, block: bytes, **options: object) -> None:
                if b'"odd"' in block:
                    refused[block] += 1
                    raise StoreRefused(1001, "std::exception")
                await real_insert(statement, block, **options)  # type: ignore[arg-type]

            refused: Counter[bytes] = Counter()
            made.store.insert = refuse_odd  # type: ignore[method-assign]
            await work.carry_out()
            whole, *halves = [times for block, times in refused.items() if block.count(b'"event_name"') > 1]
            assert whole == 1 + 5, "max_retries"
            assert len(halves) >= 8
            assert set(halves) == {1}, "each half, once"
            ((row, reason),) = work.plan.dead
            assert work.items[row].record == odd
            assert reason == "std::exception"
            assert work.plan.stored == 999
            assert await of_somebody(made) == 999

    asyncio.run(run())


def test_burners_hold_one_row_for_each_month(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            now = time.time_ns() // 1_000_000
            work = await start(made, [record(recorded=now - n % 2 * MONTH_MS) for n in range(10)])
            own, nobody = burners(Part(list(range(10))), work.items)
            assert own == b"".join(work.items[row].row or b"" for row in range(2))
            assert nobody.count(b'{"event_name":"-"}') == 2
            assert insert.NOBODY not in {one.project_id for item in work.items if (one := item.record)}

    asyncio.run(run())


async def of_somebody(made: Bench) -> int:
    """Stored rows that belong to a project."""
    result = await made.store.ask("SELECT count() FROM events WHERE project_id != ''")
    assert (await ledger(made.redis, made.keys)).get("stored", 0) in (0, int(str(result.rows[0][0])))
    return int(str(result.rows[0][0]))
