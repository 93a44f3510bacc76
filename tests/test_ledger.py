"""The ledger stays small and right: old hours fold, what is erased or expires moves, late arrivals are found."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import msgspec
import pytest

from app import ledger, registry_scripts
from app.canary import PROJECT
from app.ledger_reader import LedgerMover, LedgerReader
from app.redis_client import UNREACHABLE
from app.stream import Record
from tests.pipeline_kit import Bench, make_project_eraser, record
from tests.pipeline_steps import Open, opened
from tests.waiting import async_until
from workers.tidy import Tidy
from workers.verifier import Verifier

__all__ = ["opened"]

HOUR_MS = ledger.HOUR_MS
NOW_HOUR = int(time.time()) // 3600


def reader(made: Bench) -> LedgerReader:
    return LedgerReader(made.redis, made.settings.producer.queue, 1, made.settings.consumer.dead_letter_queue)


def tidy(made: Bench) -> Tidy:
    return Tidy(made.redis, made.store, reader(made))


def of(project_id: str, hours_ago: int) -> Record:
    return msgspec.structs.replace(record(recorded=(NOW_HOUR - hours_ago) * HOUR_MS), project_id=project_id)


async def fates(made: Bench) -> dict[str, int]:
    """The totals, after `verify` has agreed with them."""
    report = await Verifier(made.redis, made.store, reader(made), since_hour=None, wait_seconds=5).run()
    assert (report.differences, report.moving) == ([], [])
    return {fate: number for fate, number in report.fates.items() if number}


async def store(made: Bench, records: list[Record]) -> None:
    await made.put(records)
    before = (await made.store.stored())[0]
    async with made.draining():
        await async_stored(made, before + len(records))


async def async_stored(made: Bench, rows: int) -> None:
    await async_until(made.is_empty, 15)
    assert await made.store.stored() == (rows, rows)


def test_queued_and_imbalance() -> None:
    fates = {"appended": 10, "stored": 4, "dead": 1, "duplicate": 1, "erased": 1, "expired": 1}
    assert ledger.queued(fates) == 2
    assert ledger.imbalance(fates, entries=3) == 0, "they wait"
    assert ledger.imbalance(fates, entries=0) == 2, "they are nowhere"
    assert ledger.imbalance(fates | {"stored": 7}, entries=3) == -1, "one has two fates"
    assert ledger.imbalance(fates | {"stored": 6}, entries=0) == 0


def test_the_size_of_the_ledger_does_not_depend_on_its_age(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            ages = [0, 1, 191, *range(193, 230)]
            await store(made, [of("prj_a", hours) for hours in ages for _ in range(2)])
            await tidy(made).fold(NOW_HOUR)
            fields = {name.decode() for name in cast("list[bytes]", await made.redis.hkeys(made.keys.hours))}
            hours = [NOW_HOUR - age for age in (0, 1, 191)]
            assert fields == {
                f"prj_a|{hour}|{fate}" for hour in [*hours, "before"] for fate in ("appended", "stored")
            }
            assert await fates(made) == {"appended": 80, "stored": 80}
            by_hour, kept_from_hour = await reader(made).of_project(
                "prj_a", range(NOW_HOUR - 240, NOW_HOUR + 1)
            )
            assert by_hour == {hour: {"appended": 2, "stored": 2} for hour in hours}
            assert kept_from_hour == NOW_HOUR - ledger.KEPT_HOURS
            assert (await reader(made).of_project("prj_", range(NOW_HOUR, NOW_HOUR + 1)))[0] == {}
            await tidy(made).fold(NOW_HOUR + 300)
            assert await made.redis.hlen(made.keys.hours) == 2

    asyncio.run(run())


def test_folding_while_another_folds_and_events_come_loses_no_count(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:

            async def come() -> None:
                for hours in range(185, 215):
                    await made.put([of("prj_a", hours)])

            async def fold() -> None:
                for _ in range(10):
                    await tidy(made).fold(NOW_HOUR)

            async with made.draining():
                await asyncio.gather(come(), fold(), fold())
                await async_stored(made, 30)
            assert await fates(made) == {"appended": 30, "stored": 30}

    asyncio.run(run())


def test_old_canaries_expire_and_young_ones_and_others_stay(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of(PROJECT, 3), of(PROJECT, 30), of("prj_a", 60)])
            assert await tidy(made).expire_canaries(NOW_HOUR) == 0, "once a day is enough"
            await store(made, [*(of(PROJECT, hours) for hours in (49, 70, 240)), of("prj_a", 240)])
            await tidy(made).fold(NOW_HOUR)
            assert await tidy(made).expire_canaries(NOW_HOUR) == 4
            assert await tidy(made).expire_canaries(NOW_HOUR) == 0
            assert (await made.store.stored())[0] == 3
            assert await fates(made) == {"appended": 7, "stored": 3, "expired": 4}

    asyncio.run(run())


def test_a_crash_between_the_deletion_and_its_count_is_made_good(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of(PROJECT, 70), of("prj_gone", 1)])
            await made.redis.sadd(registry_scripts.DELETED, "prj_gone")
            eraser = make_project_eraser(made.redis, made.store, reader(made))

            async def crash(*_: object) -> int:
                raise ConnectionError

            with monkeypatch.context() as patched:
                patched.setattr(LedgerMover, "move", crash)
                for work in (tidy(made).expire_canaries(NOW_HOUR), eraser.erase_due()):
                    with pytest.raises(UNREACHABLE):
                        await work
            assert (await made.store.stored())[0] == 0
            assert await tidy(made).expire_canaries(NOW_HOUR) == 1
            assert await eraser.erase_due() == ["prj_gone"]
            assert await fates(made) == {"appended": 2, "expired": 1, "erased": 1}

    asyncio.run(run())


def test_what_a_spool_brings_after_an_erasure_is_erased_too(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_gone", 1), of("prj_here", 1)])
            for project_id, status in (("prj_gone", "DELETED"), ("prj_here", "ACTIVE")):
                await made.redis.hset(registry_scripts.project(project_id), "status", status)
            await tidy(made).mark_late_arrivals()
            assert await made.redis.smembers(registry_scripts.DELETED) == {b"prj_gone"}
            eraser = make_project_eraser(made.redis, made.store, reader(made))
            assert await eraser.erase_due() == ["prj_gone"]
            await tidy(made).mark_late_arrivals()
            assert not await made.redis.smembers(registry_scripts.DELETED)
            assert await fates(made) == {"appended": 2, "stored": 1, "erased": 1}

    asyncio.run(run())


def test_what_was_stored_after_the_look_is_not_moved(opened: Open) -> None:
    """An event may arrive between the count of the rows and the move: it is still there, and still counted."""

    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_a", 1)])
            [mover] = await reader(made).movers()
            seen = await mover.stored("prj_a")
            await made.store.command("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
            await store(made, [of("prj_a", 1)])
            assert await mover.move(seen, ledger.ERASED) == 0
            seen = await mover.stored("prj_a")
            await made.store.command("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
            assert await mover.move(seen, ledger.ERASED) == 2
            assert await fates(made) == {"appended": 2, "erased": 2}

    asyncio.run(run())
