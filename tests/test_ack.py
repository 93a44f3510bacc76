"""Waiting until a query sees an event, against a real drain: never told too soon, and free when nobody waits."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
import pytest

from app import watermark as watermarks
from app.dead import DeadLetters
from app.erasures import Erasures
from app.in_flight import InFlight
from app.store import StoreUnavailable
from app.stream import Record
from app.tombstone import Tombstone
from app.watermark import ERASED, QUEUED, STORED, Settled, Watermark
from tests.append_edge import own_redis
from tests.pipeline_kit import Bench, bench, make_eraser, make_settings, record
from tests.pipeline_steps import Open, Real, opened, refusing
from tests.redis_fixture import RedisServer
from tests.store_fixture import StoreServer
from tests.waiting import async_until

__all__ = ["opened", "own_redis"]


def watermark_of(made: Bench) -> Watermark:
    hiding = Erasures(made.redis, made.store, made.settings.producer.queue)
    in_flight = InFlight(made.redis, made.store, hiding)
    return Watermark(made.redis, made.settings, DeadLetters(made.redis, made.settings), in_flight)


async def wait(mark: Watermark, entry: str, one: Record) -> Settled:
    return await mark.wait(0, entry, one.unique_req_id.hex(), one.project_id)


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


def of(customer: str, **fields: object) -> Record:
    """With an id that tells when it came, as an edge gives it."""
    one = record(msgspec.json.encode({"event_name": "e", "customer_identifier": customer, **fields}))
    request_id = one.time_recorded.to_bytes(6, "big") + os.urandom(6)
    return msgspec.structs.replace(one, request_id=request_id)


async def erase(made: Bench, customer: str, project_id: str = "prj_test") -> str:
    """From the return on the customer is erased. An edge waits here, lest events of after it are meant."""
    erasures = Erasures(made.redis, made.store, made.settings.producer.queue)
    return (await erasures.begin(Tombstone("", project_id, 0, (customer,)), 0, "")).erasure_id


def test_whose_event_is_erased_meanwhile_is_told_so_and_nobody_else(opened: Open) -> None:
    """On its way to the store, when its row is stored but hidden, and when its row is gone."""

    async def run() -> None:
        async with opened() as made:
            mark = watermark_of(made)
            before = of("anna")
            entry = await made.put([before])
            async with made.draining():
                assert await wait(mark, entry, before) is STORED
            on_its_way, other, copy = of("anna"), of("bert", event_id="b"), of("bert", event_id="b")
            entries = [await made.put([one]) for one in (on_its_way, other, copy)]
            erasure = await erase(made, "anna")
            await erase(made, "carl", "prj_other")
            some = list(zip(entries, (on_its_way, other, copy), strict=True))
            waits = [asyncio.create_task(wait(mark, *pair)) for pair in some]
            async with made.draining():
                assert await asyncio.gather(*waits) == [ERASED, STORED, STORED]
                assert await wait(mark, entry, before) is ERASED, "no query sees its row"
                later = of("anna")
                assert await wait(mark, await made.put([later]), later) is STORED
                await gone(made, erasure)
                assert not await is_stored(made, before)
                again = [await wait(watermark_of(made), *pair) for pair in [(entry, before), *some]]
                assert again == [ERASED, ERASED, STORED, STORED]

    asyncio.run(run())


async def gone(made: Bench, erasure_id: str) -> None:
    """When the store holds none of its rows."""
    eraser = make_eraser(made)
    erasures = Erasures(made.redis, made.store, made.settings.producer.queue)

    async def rows_gone() -> bool:
        await eraser.step()
        report = await erasures.report("prj_test", erasure_id)
        return report is not None and report.rows_gone_at is not None

    await async_until(rows_gone, 30)


def test_when_the_store_cannot_tell_what_was_erased_nobody_is_told_stored(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened() as made, made.draining():
            mark, one = watermark_of(made), of("anna")
            await erase(made, "bert")

            async def away(*_: object) -> None:
                raise StoreUnavailable("away")

            monkeypatch.setattr(mark._in_flight, "erased", away)
            assert await wait(mark, await made.put([one]), one) is QUEUED

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
