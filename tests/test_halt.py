"""What stops a drain loudly: nothing is acknowledged, everybody can see why, and it goes on by itself."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from app.partition import Freshness, Lag
from app.probes import _lag_checks
from app.stream import Record, split_group
from tests.pipeline_kit import (
    LEASE_MS,
    POISON,
    Bench,
    assert_conserved,
    dead_letters,
    entries,
    ledger,
    record,
)
from tests.pipeline_steps import Open, hang, opened
from tests.waiting import async_until
from workers import drain as drains
from workers import items
from workers import plan as plans

__all__ = ["opened"]


async def lag(made: Bench) -> Lag:
    return (await Freshness(made.redis, made.settings.producer.queue, 1).lag())[0]


async def halted(made: Bench) -> str:
    return (await lag(made)).halted


@pytest.fixture(autouse=True)
def _try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "HALT_SECONDS", 0.1)


def test_no_more_dead_letters_than_may_be(opened: Open) -> None:
    """Safeguards: the bound, in the script that acknowledges; the halt in readiness; going on after a purge."""

    async def run() -> None:
        async with opened(max_dead_letters=3) as made:
            async with made.draining("a"):
                await made.put([record(), *[record(POISON) for _ in range(3)]])
                await async_until(made.is_empty, 15)
                last = record(POISON)
                await made.put([last, record()])
                reason = await async_until(lambda: halted(made), 15)
                assert "max_dead_letters = 3" in reason
                (check, _) = _lag_checks(await lag(made), serves_ms=60_000)
                assert (check.name, check.ok) == ("drain 0", False)
                assert check.detail == f"halted: {reason}"
                assert len(await dead_letters(made.redis, made.keys)) == 3
                assert await made.redis.xlen(made.keys.entries) == 1, "nothing is acknowledged"
                for letter, _fields in (await entries(made.redis, made.keys.dead))[:2]:
                    await made.redis.xdel(made.keys.dead, letter)
                await async_until(made.is_empty, 15)
                await made.put([record()])
                await async_until(made.is_empty, 15)

                async def goes_on() -> bool:
                    return not await halted(made)

                await async_until(goes_on, 5)
            assert (await dead_letters(made.redis, made.keys))[-1].record == last
            assert await made.store.stored() == (3, 3)
            assert await ledger(made.redis, made.keys) == {"appended": 7, "stored": 3, "dead": 4}
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_one_batch_always_finds_room_where_there_is_none_yet(opened: Open) -> None:
    """A bound that is smaller than a batch must not stop the drain for ever."""

    async def run() -> None:
        async with opened(max_dead_letters=1) as made, made.draining("a"):
            await made.put([*[record() for _ in range(5)], *[record(POISON) for _ in range(3)]])
            await async_until(made.is_empty, 15)
            assert len(await dead_letters(made.redis, made.keys)) == 3

    asyncio.run(run())


def test_entries_of_another_version_are_not_set_aside(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: whole entries that cannot be read halt the drain before a plan is made of them."""
    monkeypatch.setattr(plans, "MAX_DEAD_ROWS", 20)
    real = split_group

    def too_new(payload: bytes) -> list[Record]:
        if is_old:
            raise msgspec.ValidationError("Expected `array` of at most length 10, got 11")
        return real(payload)

    is_old = True
    monkeypatch.setattr(items, "split_group", too_new)

    async def run() -> None:
        nonlocal is_old
        async with opened() as made, made.draining("a"):
            await made.put([record() for _ in range(30)])
            assert "at most length 10" in await async_until(lambda: halted(made), 10)
            assert not await made.redis.exists(made.keys.plan)
            assert await ledger(made.redis, made.keys) == {"appended": 30}
            is_old = False  # the new version
            await async_until(made.is_empty, 10)
            assert await made.store.stored() == (30, 30)

    asyncio.run(run())


def test_a_plan_is_finished_by_a_version_that_reads_the_same(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: positions of a plan name the same events to all who carry it out, or nobody does."""

    async def run() -> None:
        async with opened(hang) as made:
            await made.put([record(), record()])
            async with made.draining("a"):
                await async_until(lambda: made.redis.exists(made.keys.plan), 10)
            monkeypatch.setattr(items, "split_group", lambda payload: [*split_group(payload), record()])
            async with made.draining("a"):
                assert "made of 2 events where this version reads 3" in await async_until(
                    lambda: halted(made), 30
                )
                assert await made.store.stored() == (0, 0)
                monkeypatch.undo()
                monkeypatch.setattr(drains, "HALT_SECONDS", 0.1)
                await async_until(made.is_empty, 60)
            assert await made.store.stored() == (2, 2)

    asyncio.run(run())


def test_a_halted_drain_keeps_its_partition_and_stops_when_asked(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguards: no other drain is drawn in, and a stop need not wait for the end of the pause."""
    monkeypatch.setattr(plans, "MAX_DEAD_ROWS", 2)
    monkeypatch.setattr(drains, "HALT_SECONDS", 60.0)

    async def run() -> None:
        async with opened() as made:
            await made.redis.xadd(made.keys.entries, {"r": b"\xff", "c": "prj_test|1=30"})
            stop = asyncio.Event()
            task = asyncio.create_task(made.drain("a", stop=stop).run())
            await async_until(lambda: halted(made), 10)
            other = made.partition("b")
            await asyncio.sleep(1.5 * made.settings.consumer.lease_timeout)
            assert not await other.acquire(LEASE_MS)
            stop.set()
            await asyncio.wait_for(task, 3)
            assert await other.acquire(LEASE_MS)

    asyncio.run(run())
