"""An insert of unknown fate against the real engine: what is there is counted, what is missing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.store import Store, StoreRefused
from tests.pipeline_kit import (
    record,
)
from tests.pipeline_steps import (
    Open,
    lose_answer,
    lose_request,
    opened,
    start,
)
from workers.plan import Part

__all__ = ["opened"]


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


def test_an_insert_that_still_runs_is_waited_for(opened: Open) -> None:
    """Safeguard: wait_until_quiet. A copy that runs in the server would be missed by counting too early."""

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
            await work.inserter._held.wait_until_quiet(work.plan.id)
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
            work.items[3].rows = None
            work.items[3].reason = "no row can be made"
            await work.carry_out(resumed=True)
            assert await made.store.stored() == (9, 9)
            assert work.plan.stored == 9
            assert work.plan.dead == [(3, "no row can be made")]

    asyncio.run(run())
