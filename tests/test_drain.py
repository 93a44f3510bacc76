"""The drain's loop with a real Redis and the real engine: waiting, pacing, limits, stopping."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.store import StoreRefused, StoreUnavailable
from tests.pipeline_kit import (
    LEASE_MS,
    POISON,
    Fault,
    assert_conserved,
    dead_letters,
    ledger,
    queued,
    record,
)
from tests.pipeline_steps import (
    Open,
    Real,
    assert_stored,
    hang,
    has_inserted,
    opened,
)
from tests.waiting import async_until
from workers import drain as drains
from workers import plan
from workers.pace import SHORTEST
from workers.reading import Batch

__all__ = ["opened"]


def test_the_store_is_away_for_a_while(opened: Open) -> None:
    """Safeguard: waiting. The stream keeps what the store cannot take, and no lease is lost over it."""

    async def away(real: Real) -> None:
        if not is_back.is_set():
            made_faults.append(away)
            raise StoreUnavailable("away")
        await real()

    made_faults: list[Fault] = []
    is_back = asyncio.Event()

    async def run() -> None:
        async with opened(retry_delay=0.05) as made:
            made.store.faults = made_faults
            made_faults.append(away)
            async with made.draining("a"):
                for _ in range(10):
                    await made.put([record() for _ in range(20)])
                await async_until(lambda: has_inserted(made, 4), 10)
                assert len(await queued(made.redis, made.keys)) == 200
                is_back.set()
                await assert_stored(made, 200)
                assert await made.redis.get(made.keys.epoch) == b"1"

    asyncio.run(run())


def test_trickling_events_share_inserts_and_a_lone_one_goes_at_once(opened: Open) -> None:
    """Safeguards: the pace of inserts, their bound; and no waiting where nothing has just been inserted."""

    async def run() -> None:
        async with opened() as made, made.draining("a"):
            await async_until(lambda: made.redis.exists(made.keys.progress), 5)
            lone = time.monotonic()
            await made.put([record()])
            await async_until(made.is_empty, 5)
            assert time.monotonic() - lone < 2.0
            first, began, sent = made.store.inserts, time.monotonic(), 1
            while time.monotonic() < began + 2:
                await made.put([record()])
                sent += 1
            elapsed = time.monotonic() - began
            assert made.store.inserts - first <= elapsed / (0.2 * SHORTEST) + 2
            assert sent > 50
            await assert_stored(made, sent)

    asyncio.run(run())


def test_a_drain_that_waits_for_more_events_proves_that_it_works(opened: Open) -> None:
    """Safeguard: the longest `max_batch_timeout` makes nobody take the drain for dead."""

    async def run() -> None:
        async with opened(max_batch_timeout=10) as made, made.draining("a"):
            await made.put([record()])
            await async_until(made.is_empty, 5)
            await made.put([record()])

            async def proved_ms() -> int:
                return int(await made.redis.hget(made.keys.progress, "at") or 0)

            first = await proved_ms()

            async def has_gone_on() -> bool:
                return await proved_ms() >= first + 2000

            await async_until(has_gone_on, 8)
            assert not await made.is_empty(), "it still waits"

    asyncio.run(run())


def test_a_batch_exceeds_its_limits_by_less_than_one_entry(opened: Open) -> None:
    """Safeguard: the bound of one insert, in rows and in bytes."""

    async def run() -> None:
        async with opened(max_batch_size=100, max_batch_bytes=100_000) as made:
            for _ in range(30):
                await made.put([record() for _ in range(30)])
            big = [record(b'{"event_name":"big","text":"%s"}' % (b"x" * 8000)) for _ in range(40)]
            for number in range(0, 40, 4):
                await made.put(big[number : number + 4])
            drain = made.drain()
            assert await drain._partition.acquire(LEASE_MS)
            sizes = []
            while await drain._partition.wait(1):
                batch = Batch()
                await drain._reader.fill(batch)
                sizes.append(len(batch.items))
                await drain._batch()
            assert max(sizes) < 100 + 30
            assert max(made.store.blocks) < 100_000 + 4 * 8300
            await assert_stored(made, 940)

    asyncio.run(run())


def test_a_mostly_bad_batch_halts_the_drain(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: nothing is acknowledged; everything goes on once the fault (ours) is mended."""
    monkeypatch.setattr(plan, "MAX_DEAD_ROWS", 5)
    monkeypatch.setattr(drains, "HALT_SECONDS", 0.05)

    async def run() -> None:
        async with opened() as made:
            good = [record() for _ in range(40)]
            await made.put(good)

            async def refuse(real: Real) -> None:
                if not mended.is_set():
                    made.store.faults.append(refuse)
                    raise StoreRefused(117, "our bug")
                await real()

            mended = asyncio.Event()
            made.store.faults = [refuse]
            async with made.draining("a"):
                await async_until(lambda: has_inserted(made, 60), 20)
                assert await queued(made.redis, made.keys) == good
                assert await ledger(made.redis, made.keys) == {"appended": 40}

    asyncio.run(run())


def test_a_poisoned_event_ends_as_a_dead_letter(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await made.put([record(), record(POISON), record()])
            async with made.draining("a"):
                await async_until(made.is_empty, 10)
            assert await ledger(made.redis, made.keys) == {"appended": 3, "stored": 2, "dead": 1}
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_a_batch_of_5000_with_one_poisoned_event(opened: Open) -> None:
    """4,999 are stored, one is a dead letter with its reason, and events are fresh again at once."""

    async def run() -> None:
        async with opened(max_batch_size=10_000) as made:
            poison = record(POISON)
            records = [record() for _ in range(5000)]
            records[2717] = poison
            for first in range(0, 5000, 1000):
                await made.put(records[first : first + 1000])
            began = time.monotonic()
            async with made.draining("a"):
                await async_until(made.is_empty, 60)
                took = time.monotonic() - began
                lone = time.monotonic()
                await made.put([record()])
                await async_until(made.is_empty, 10)
                fresh_after = time.monotonic() - lone
            assert await made.store.stored() == (5000, 5000)
            (letter,) = await dead_letters(made.redis, made.keys)
            assert letter.record == poison
            assert "DB::Exception" in letter.reason
            assert await ledger(made.redis, made.keys) == {"appended": 5001, "stored": 5000, "dead": 1}
            assert made.store.inserts <= 2 * 13 + 2
            assert fresh_after < 1
            print(f"5,000 with one poisoned: {took:.2f} s, a lone event after it: {fresh_after:.2f} s")

    asyncio.run(run())


def test_a_stop_drains_the_rest_and_releases_the_lease(opened: Open) -> None:
    """Safeguard: a planned restart leaves nothing behind and lets the next drain start at once."""

    async def run() -> None:
        async with opened() as made:
            stop = asyncio.Event()
            task = asyncio.create_task(made.drain("a", stop=stop).run())
            await async_until(lambda: made.redis.exists(made.keys.lease), 5)
            for _ in range(30):
                await made.put([record() for _ in range(10)])
            stop.set()
            await asyncio.wait_for(task, 8)
            assert not await made.redis.exists(made.keys.lease)
            await assert_stored(made, 300)

    asyncio.run(run())


def test_a_stop_while_the_store_is_away_ends(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: the stop has a deadline; what is left waits in Redis with its plan."""
    monkeypatch.setattr(drains, "DRAIN_ON_STOP_SECONDS", 0.3)

    async def run() -> None:
        async with opened(hang) as made:
            await made.put([record()])
            stop = asyncio.Event()
            task = asyncio.create_task(made.drain("a", stop=stop).run())
            await async_until(lambda: made.redis.exists(made.keys.plan), 5)
            stop.set()
            await asyncio.wait_for(task, 5)
            assert not await made.redis.exists(made.keys.lease)
            assert len(await queued(made.redis, made.keys)) == 1
            async with made.draining("b"):
                await assert_stored(made, 1)

    asyncio.run(run())
