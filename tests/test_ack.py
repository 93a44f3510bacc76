"""Waiting until a query sees an event, against a real drain: never told too soon, and free when nobody waits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from app import watermark as watermarks
from app.dead import DeadLetters
from app.store import StoreUnavailable
from app.stream import Record
from app.watermark import QUEUED, STORED, Settled, Watermark
from tests.append_edge import own_redis
from tests.pipeline_kit import Bench, bench, make_settings, record
from tests.pipeline_steps import Open, Real, opened, refusing
from tests.redis_fixture import RedisServer
from tests.store_fixture import StoreServer
from tests.waiting import async_until

__all__ = ["opened", "own_redis"]


def watermark_of(made: Bench) -> Watermark:
    return Watermark(made.redis, made.settings, DeadLetters(made.redis, made.settings))


async def wait(mark: Watermark, entry: str, one: Record) -> Settled:
    return await mark.wait(0, entry, one.unique_req_id.hex())


async def is_stored(made: Bench, one: Record) -> bool:
    sql = "SELECT count() FROM events WHERE unique_req_id = toFixedString(unhex({id:String}), 16)"
    return (await made.store.ask(sql, {"id": one.unique_req_id.hex()})).rows == [[1]]


def test_whoever_is_told_stored_finds_the_event(opened: Open) -> None:
    """Safeguard: the mark moves with the acknowledgement, after the insert; also when inserts fail first."""

    async def run() -> None:
        async with opened() as made, made.draining():
            mark = watermark_of(made)

            async def lose_request(_real: Real) -> None:
                raise StoreUnavailable("lost")

            async def one_event(entry: str, one: Record) -> None:
                assert await wait(mark, entry, one) is STORED
                assert await is_stored(made, one)

            waits = []
            for number in range(60):
                one = record()
                waits.append(asyncio.create_task(one_event(await made.put([one]), one)))
                if number % 10 == 3:
                    made.store.faults.append(lose_request)
                    await waits[-1]
            await asyncio.gather(*waits)
            await async_until(lambda: is_idle(mark), 2, "the end of the looking")

    asyncio.run(run())


async def is_idle(mark: Watermark) -> bool:
    return not mark._tasks


def test_a_dead_letter_is_told_with_its_reason_and_its_neighbour_is_stored(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            mark = watermark_of(made)
            good, bad = record(), record()
            entries = [await made.put([one]) for one in (bad, good)]
            waits = [
                asyncio.create_task(wait(mark, *pair)) for pair in zip(entries, (bad, good), strict=True)
            ]
            made.store.faults = [refusing(117), refusing(117)]
            async with made.draining():
                assert await asyncio.gather(*waits) == [Settled("dead", "simulated"), STORED]

    asyncio.run(run())


def test_nobody_waits_for_ever(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermarks, "WAIT_SECONDS", 0.3)

    async def run() -> None:
        async with opened() as made:
            mark, one = watermark_of(made), record()
            entry = await made.put([one])
            began = time.monotonic()
            assert await wait(mark, entry, one) is QUEUED
            assert 0.3 <= time.monotonic() - began < 2
            assert await wait(mark, "", one) is QUEUED, "in a spool"
            async with made.draining():
                await async_until(lambda: is_stored(made, one), 10)
                assert await wait(mark, entry, one) is STORED, "a late waiter need not wait"

    asyncio.run(run())


def test_a_thousand_waiters_cost_one_question_at_a_time_and_none_when_nobody_waits(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: one look for all waiters of a partition; the number of waiters is bounded."""
    monkeypatch.setattr(watermarks, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(watermarks, "MAX_WAITERS", 900)

    async def looks(made: Bench) -> int:
        stats = await made.redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hget", "hmget", "xrange"))

    async def run() -> None:
        async with opened() as made:
            mark, one = watermark_of(made), record()
            entry = await made.put([one])
            before, began = await looks(made), time.monotonic()
            waits = [asyncio.create_task(wait(mark, entry, one)) for _ in range(1000)]
            settled, waiting = await asyncio.wait(waits, timeout=0.5)
            assert (len(settled), len(waiting)) == (100, 900)
            assert set(await asyncio.gather(*waits)) == {QUEUED}
            asked = await looks(made) - before
            assert 5 <= asked <= (time.monotonic() - began) / watermarks.POLL_SECONDS + 2
            await async_until(lambda: is_idle(mark), 2, "the end of the looking")

    asyncio.run(run())


def test_a_client_that_leaves_is_not_waited_for(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            mark, one = watermark_of(made), record()
            entry = await made.put([one])
            task = asyncio.create_task(wait(mark, entry, one))
            await async_until(lambda: has_waiters(mark), 2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not await has_waiters(mark)
            await async_until(lambda: is_idle(mark), 2)

    asyncio.run(run())


def test_who_comes_as_the_looking_ends_is_told(opened: Open) -> None:
    """Safeguard: a task that has found nobody does not count as one that looks."""

    async def run() -> None:
        async with opened() as made, made.draining():
            mark = watermark_of(made)
            gone, watch = asyncio.get_running_loop().create_future(), mark._watch

            async def watch_and_tell(partition: int) -> None:
                await watch(partition)
                if not gone.done():
                    gone.set_result(None)  # wakes the next one before anybody hears of the task's end

            mark._watch = watch_and_tell  # type: ignore[method-assign]
            first, second = record(), record()
            assert await wait(mark, await made.put([first]), first) is STORED
            entry = await made.put([second])
            await gone
            assert await wait(mark, entry, second) is STORED

    asyncio.run(run())


async def has_waiters(mark: Watermark) -> bool:
    return any(mark._waiters)


def test_a_stopping_edge_tells_those_who_wait(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            mark, one = watermark_of(made), record()
            waiting = asyncio.create_task(wait(mark, await made.put([one]), one))
            await async_until(lambda: has_waiters(mark), 2)
            await mark.close()
            assert await asyncio.wait_for(waiting, 1) is QUEUED
            assert await is_idle(mark)

    asyncio.run(run())


def test_redis_goes_away_while_somebody_waits(
    tmp_path: Path,
    own_redis: RedisServer,
    store_server: StoreServer,
    store_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safeguard: an outage shorter than the wait is waited out, a longer one ends in `queued`."""
    monkeypatch.setattr(watermarks, "WAIT_SECONDS", 10.0)

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, store_server, store_database)
        async with bench(settings) as made:
            mark, one = watermark_of(made), record()
            entry = await made.put([one])
            waiting = asyncio.create_task(wait(mark, entry, one))
            await async_until(lambda: has_waiters(mark), 2)
            own_redis.kill()
            monkeypatch.setattr(watermarks, "WAIT_SECONDS", 0.5)
            assert await wait(mark, entry, record()) is QUEUED
            await asyncio.to_thread(own_redis.start)
            async with made.draining():
                assert await waiting is STORED
            await mark.close()

    asyncio.run(run())
