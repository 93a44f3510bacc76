"""Plans carried out against the real engine: each row once, or a dead letter with the engine's words."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from app.store import StoreRefused
from tests.pipeline_kit import (
    LEASE_MS,
    POISON,
    assert_conserved,
    dead_letters,
    entries,
    ledger,
    record,
)
from tests.pipeline_steps import (
    Open,
    opened,
    refusing,
    start,
)
from workers import plan
from workers.insert import MostlyDead

__all__ = ["opened"]


def test_five_thousand_rows_are_one_insert(opened: Open) -> None:
    """And one part: an insert is atomic only within a block."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(5000)])
            await work.carry_out()
            assert await made.store.stored() == (5000, 5000)
            assert made.store.inserts == 1
            parts = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = 'events'"
            assert (await made.store.ask(parts)).rows == [[1]]
            assert work.plan.stored == 5000

    asyncio.run(run())


def test_a_big_batch_is_still_one_block(opened: Open) -> None:
    """Safeguard: no block limit of the engine may cut a batch of the largest size in two."""

    async def run() -> None:
        async with opened() as made:
            body = b'{"event_name":"big","text":"%s"}' % (b"x" * 8000)
            work = await start(made, [record(body) for _ in range(2000)])
            await work.carry_out()
            assert made.store.blocks[0] > 16_000_000
            assert await made.store.stored() == (2000, 2000)
            parts = "SELECT count(), min(level) FROM system.parts WHERE active AND database = currentDatabase() AND table = 'events'"
            assert (await made.store.ask(parts)).rows == [[1, 0]]

    asyncio.run(run())


def test_one_poisoned_record_is_set_aside(opened: Open) -> None:
    """Safeguard: bisecting. One bad row neither stops the rest nor disappears."""

    async def run() -> None:
        async with opened() as made:
            poison = record(POISON)
            work = await start(
                made, [record() for _ in range(2500)] + [poison] + [record() for _ in range(2499)]
            )
            await work.carry_out()
            assert await made.store.stored() == (4999, 4999)
            assert work.plan.stored == 4999
            ((row, reason),) = work.plan.dead
            assert work.items[row].record == poison
            assert "value" in reason
            assert "DB::Exception" in reason
            assert made.store.inserts < 40

    asyncio.run(run())


def test_a_constraint_of_the_operator_blames_its_row_and_no_log_cites_it(opened: Open) -> None:
    """Safeguards: code 469 is the data's fault; the dead letter has the engine's words, the log its code."""

    async def run() -> None:
        async with opened() as made:
            await made.store.command("ALTER TABLE events ADD CONSTRAINT no_odd CHECK length(body) < 50")
            odd = record(b'{"event_name":"odd","secret":"%s"}' % (b"s" * 50))
            work = await start(made, [*[record() for _ in range(500)], odd, *[record() for _ in range(499)]])
            with capture_logs() as logs:
                await work.carry_out()
            assert await made.store.stored() == (999, 999)
            ((row, reason),) = work.plan.dead
            assert work.items[row].record == odd
            assert "secret" in reason
            assert made.store.inserts < 25, "no retries"
            assert {line["code"] for line in logs} == {469}
            assert "secret" not in str(logs)

    asyncio.run(run())


def test_many_poisoned_records_at_the_front_do_not_stop_a_good_batch(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: good halves go in before the share of bad rows is judged."""
    monkeypatch.setattr(plan, "MAX_DEAD_ROWS", 5)

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record(POISON) for _ in range(10)] + [record() for _ in range(100)])
            await work.carry_out()
            assert await made.store.stored() == (100, 100)
            assert len(work.plan.dead) == 10

    asyncio.run(run())


def test_a_batch_that_is_mostly_bad_stops(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: MostlyDead. If nearly all rows are refused, the fault is ours and nothing is given up."""
    monkeypatch.setattr(plan, "MAX_DEAD_ROWS", 5)

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record(POISON) for _ in range(30)] + [record()])
            with pytest.raises(MostlyDead, match=r"code 117: .* found during parsing$"):
                await work.carry_out()
            assert await made.redis.exists(made.keys.plan)
            assert await made.redis.xlen(made.keys.entries) == 1
            assert await ledger(made.redis, made.keys) == {"appended": 31}

    asyncio.run(run())


@pytest.mark.parametrize("code", [241, 252, 1002])
def test_a_store_error_that_passes_is_retried(opened: Open, code: int) -> None:
    """Safeguard: no row is blamed for a store that is short of something for a moment."""

    async def run() -> None:
        async with opened(refusing(code), refusing(code)) as made:
            work = await start(made, [record() for _ in range(50)])
            await work.carry_out()
            assert await made.store.stored() == (50, 50)
            assert made.store.inserts == 3
            assert not work.plan.dead

    asyncio.run(run())


def test_a_store_error_that_repeats_is_bisected(opened: Open) -> None:
    """Safeguard: a batch too big for the store's memory is cut in two instead of retried for ever."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(64)])
            real_insert = made.store.insert

            async def insert_small(statement: str, block: bytes, **options: object) -> None:
                if len(block) > 3000:
                    made.store.inserts += 1
                    raise StoreRefused(241, "memory")
                await real_insert(statement, block, **options)  # type: ignore[arg-type]

            made.store.insert = insert_small  # type: ignore[method-assign]
            await work.carry_out()
            assert await made.store.stored() == (64, 64)
            assert not work.plan.dead
            assert work.plan.stored == 64

    asyncio.run(run())


def test_a_broken_installation_is_waited_for(opened: Open) -> None:
    """Safeguard: BLOCKING_CODES. A missing table blames no row, however long it is missing."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(20)])
            await made.store.command("RENAME TABLE events TO away")
            task = asyncio.create_task(work.carry_out())
            await asyncio.wait([task], timeout=1.0)
            assert not task.done()
            await made.store.command("RENAME TABLE away TO events")
            await asyncio.wait_for(task, 10)
            assert await made.store.stored() == (20, 20)
            assert not work.plan.dead

    asyncio.run(run())


@pytest.mark.parametrize("code", [60, 516, 242])
def test_blocking_codes_never_blame_a_row(opened: Open, code: int) -> None:
    """Safeguard: many more refusals than max_retries, and still no halves and no dead letters."""

    async def run() -> None:
        async with opened(*[refusing(code)] * 12, retry_delay=0.0001) as made:
            work = await start(made, [record()])
            await work.carry_out()
            assert await made.store.stored() == (1, 1)
            assert not work.plan.dead

    asyncio.run(run())


def test_an_unreadable_entry_is_a_dead_letter_with_its_bytes(opened: Open) -> None:
    """Safeguard: what no edge of ours wrote is kept and named, and blocks nothing."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record()])
            # Counted when it was appended, and damaged since; the other one was never counted by anybody.
            await made.redis.xadd(made.keys.entries, {"r": b"\xff not msgpack", "c": "prj_test|1=3"})
            await made.redis.hincrby(made.keys.ledger, "appended", 3)
            await made.redis.hincrby(made.keys.hours, "prj_test|1|appended", 3)
            await made.redis.xadd(made.keys.entries, {"other": b"field"})
            await made.put([record(b"not json"), record(POISON), record()])
            drain = made.drain()
            assert await drain._partition.acquire(LEASE_MS)
            await drain._batch()
            assert await made.store.stored() == (2, 2)
            letters = await dead_letters(made.redis, made.keys)
            assert len(letters) == 4
            by_reason = {letter.reason.split(":")[0]: letter for letter in letters}
            assert by_reason["unreadable entry"].payload in (b"\xff not msgpack", b"")
            assert {letter.payload for letter in letters} >= {b"\xff not msgpack"}
            bodies = {letter.record.body for letter in letters if letter.record is not None}
            assert bodies == {b"not json", POISON}
            assert not await entries(made.redis, made.keys.entries)
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_months_of_client_time_are_one_batch(opened: Open) -> None:
    """Safeguard: partitions follow the server's clock, so that no client can make an insert of 200 parts."""

    async def run() -> None:
        async with opened() as made:
            months = [f"{1990 + n // 12}-{n % 12 + 1:02d}-15" for n in range(200)]
            records = [record(b'{"event_name":"old","timestamp":"%s"}' % month.encode()) for month in months]
            work = await start(made, records)
            await work.carry_out()
            assert await made.store.stored() == (200, 200)
            assert not work.plan.dead
            months_stored = "SELECT uniqExact(toYYYYMM(event_time)) FROM events"
            assert (await made.store.ask(months_stored)).rows == [[200]]

    asyncio.run(run())
