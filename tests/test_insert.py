"""Plans carried out against the real engine: each row once, or a dead letter with the engine's words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from app.store import Store, StoreRefused, StoreUnavailable
from app.stream import Record
from tests.pipeline_kit import (
    LEASE_MS,
    POISON,
    Bench,
    Fault,
    assert_conserved,
    bench,
    dead_letters,
    entries,
    ledger,
    make_settings,
    record,
)
from tests.store_fixture import StoreServer
from workers import insert
from workers import plan as plans
from workers.enrich import Geography
from workers.insert import Inserter, MostlyDead
from workers.plan import Item, Part, Plan

Open = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def opened(tmp_path: Path, redis_url: str, store_server: StoreServer, store_database: str) -> Open:
    """Opens the bench of this test: `opened(*faults)`."""

    def open_bench(*faults: Fault, **consumer: float) -> AbstractAsyncContextManager[Bench]:
        quick = {"retry_delay": 0.01, "max_retries": 3} | consumer
        settings = make_settings(tmp_path, redis_url, store_server, store_database, consumer=quick)
        return bench(settings, faults)

    return open_bench


async def refuse(real: Callable[[], Awaitable[None]], code: int = 241) -> None:
    raise StoreRefused(code, "simulated")


async def lose_answer(real: Callable[[], Awaitable[None]]) -> None:
    """The insert is executed; its answer never arrives."""
    await real()
    raise StoreUnavailable("lost")


async def lose_request(real: Callable[[], Awaitable[None]]) -> None:
    raise StoreUnavailable("lost")


def refusing(code: int) -> Fault:
    return lambda real: refuse(real, code)


class Work:
    """One batch under a lease, its plan saved, as the drain does it."""

    def __init__(self, made: Bench, items: list[Item], plan: Plan, inserter: Inserter) -> None:
        self.made = made
        self.items = items
        self.plan = plan
        self.inserter = inserter

    async def carry_out(self, *, resumed: bool = False) -> None:
        await self.inserter.carry_out(self.plan, self.items, resumed=resumed)


async def start(made: Bench, records: Sequence[Record]) -> Work:
    await made.put(records)
    partition = made.partition()
    assert await partition.acquire(LEASE_MS)
    items = [
        item for entry in await partition.read(None, 100) for item in plans.read_items(entry, Geography(""))
    ]
    plan = plans.make("plan1", items)
    await partition.save_plan(plans.encode(plan))

    async def fence() -> None:
        await partition.renew(LEASE_MS)

    consumer = made.settings.consumer
    inserter = Inserter(
        made.store,
        partition,
        fence,
        timeout_seconds=2.0,
        max_retries=consumer.max_retries,
        retry_delay_seconds=consumer.retry_delay,
    )
    return Work(made, items, plan, inserter)


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


def test_many_poisoned_records_at_the_front_do_not_stop_a_good_batch(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: good halves go in before the share of bad rows is judged."""
    monkeypatch.setattr(insert, "MAX_DEAD_ROWS", 5)

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record(POISON) for _ in range(10)] + [record() for _ in range(100)])
            await work.carry_out()
            assert await made.store.stored() == (100, 100)
            assert len(work.plan.dead) == 10

    asyncio.run(run())


def test_a_batch_that_is_mostly_bad_stops(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: MostlyDead. If nearly all rows are refused, the fault is ours and nothing is given up."""
    monkeypatch.setattr(insert, "MAX_DEAD_ROWS", 5)

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record(POISON) for _ in range(30)] + [record()])
            with pytest.raises(MostlyDead):
                await work.carry_out()
            assert await made.redis.exists(made.keys.plan)
            assert await made.redis.xlen(made.keys.entries) == 1
            assert await ledger(made.redis, made.keys) == {"appended": 31}

    asyncio.run(run())


def test_a_lost_answer_is_not_doubled(opened: Open) -> None:
    """Safeguard: after no answer the ids are counted; the rows were in."""

    async def run() -> None:
        async with opened(lose_answer) as made:
            work = await start(made, [record() for _ in range(100)])
            await work.carry_out()
            assert await made.store.stored() == (100, 100)
            assert work.plan.stored == 100

    asyncio.run(run())


def test_a_lost_request_is_repeated(opened: Open) -> None:
    """Safeguard: the other half of the same question; and lost answers while asking change nothing."""

    async def run() -> None:
        async with opened(lose_request, lose_request, lose_answer, lose_answer) as made:
            work = await start(made, [record() for _ in range(100)])
            await work.carry_out()
            assert await made.store.stored() == (100, 100)
            assert work.plan.stored == 100

    asyncio.run(run())


def test_an_ok_to_a_repeated_token_is_not_believed(opened: Open) -> None:
    """Safeguard: counting. The token is in the engine's log, the rows are not there: as after a kill between."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(100)])
            await work.inserter._send(work.plan, work.plan.parts[0], work.items)
            await made.store.command("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
            await work.inserter._send(work.plan, work.plan.parts[0], work.items)
            assert await made.store.stored() == (0, 0), "the engine must answer OK and add nothing"
            await work.carry_out(resumed=True)
            assert await made.store.stored() == (100, 100)
            assert work.plan.stored == 100
            assert len(set(made.store.tokens)) == 2

    asyncio.run(run())


def test_part_of_a_batch_that_is_there_is_completed(opened: Open) -> None:
    """Safeguard: only what is missing is planned anew (an insert over two months is two parts)."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(100)])
            some = Part(work.plan.parts[0].rows[:40], attempt=7)
            await work.inserter._send(work.plan, some, work.items)

            async def refuse_first(real: Callable[[], Awaitable[None]]) -> None:
                raise StoreRefused(241, "memory")

            made.store.faults = [refuse_first]
            await work.carry_out()
            assert await made.store.stored() == (100, 100)
            assert work.plan.stored == 100

    asyncio.run(run())


def test_a_late_insert_of_a_former_owner_adds_nothing(opened: Open) -> None:
    """Safeguard: the token of the plan is sent again first, which stops the copy that is still on its way."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(100)])
            first = Part(list(work.plan.parts[0].rows))
            await work.carry_out(resumed=True)
            await work.inserter._send(work.plan, first, work.items)
            assert await made.store.stored() == (100, 100)

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
        async with opened(*[refusing(code)] * 12) as made:
            work = await start(made, [record()])
            work.inserter._retry_delay_seconds = 0.0001
            await work.carry_out()
            assert await made.store.stored() == (1, 1)
            assert not work.plan.dead

    asyncio.run(run())


def test_an_insert_that_still_runs_is_waited_for(opened: Open) -> None:
    """Safeguard: _wait_until_quiet. A copy that runs in the server would be missed by counting too early."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(10)])
            slow = Store(
                made.settings.clickhouse_url,
                database=made.settings.store.database,
                username="default",
                password=made.settings.secret("CLICKHOUSE_PASSWORD"),
            )
            sql = "INSERT INTO events (project_id, body) SELECT 'slow', '{}' FROM numbers(3) WHERE NOT sleepEachRow(0.4)"
            task = asyncio.create_task(
                slow._post(sql.encode(), {"max_block_size": 1}, {}, 10, f"{work.plan.id}-x")
            )
            processes = "SELECT count() FROM system.processes WHERE query_kind = 'Insert'"
            while (await made.store.ask(processes)).rows == [[0]]:
                assert not task.done()
            await work.inserter._wait_until_quiet(work.plan.id)
            assert (await made.store.ask(processes)).rows == [[0]]
            assert (await made.store.stored())[0] == 3
            await task
            await slow.close()

    asyncio.run(run())


def test_a_row_that_this_version_cannot_make_is_set_aside(opened: Open) -> None:
    """Safeguard: an empty place in a block must not be counted as stored after an update of the program."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record() for _ in range(10)])
            work.items[3].row = None
            work.items[3].reason = "no row can be made"
            await work.carry_out(resumed=True)
            assert await made.store.stored() == (9, 9)
            assert work.plan.stored == 9
            assert work.plan.dead == [(3, "no row can be made")]

    asyncio.run(run())


def test_an_unreadable_entry_is_a_dead_letter_with_its_bytes(opened: Open) -> None:
    """Safeguard: what no edge of ours wrote is kept and named, and blocks nothing."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record()])
            await made.redis.xadd(made.keys.entries, {"r": b"\xff not msgpack"})
            await made.redis.xadd(made.keys.entries, {"other": b"field"})
            await made.redis.hincrby(made.keys.ledger, "appended", 2)
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
