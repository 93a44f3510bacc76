"""Redis is killed, full, paused or demoted, and there is no spool: no answer claims what is not so."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from pathlib import Path

from app.errors import ApiError
from tests.append_edge import Edge, edge, own_redis, refused
from tests.pipeline_kit import (
    make_settings,
)
from tests.redis_fixture import RedisServer
from tests.waiting import async_until

__all__ = ["own_redis"]


def test_kill_of_redis_under_load_keeps_each_answered_event_once(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    """Safeguards: fsync before the answer; the sequence lives in the same AOF as the entries."""

    async def run() -> None:
        answered: list[int] = []

        async def client(first: int, made: Edge) -> None:
            for number in range(first, first + 60):
                answered.append(await made.append(number))

        async with edge(make_settings(tmp_path, own_redis.url)) as made:
            load = asyncio.gather(*(client(100 * n, made) for n in range(40)))

            async def are_answered(count: int) -> bool:
                return len(answered) >= count

            for count in (400, 1200):
                await async_until(partial(are_answered, count), 20)
                own_redis.kill()
                await asyncio.to_thread(own_redis.start)
            await load
            numbers = await made.numbers()
            assert len(answered) == 2400
            assert sorted(numbers) == sorted(answered)
            assert int(await made.redis.hget(made.keys.ledger, "appended") or 0) == 2400

    asyncio.run(run())


def test_out_of_memory_says_that_nothing_was_kept(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: OOM is told apart from an unknown fate, and is not retried for append_timeout."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, own_redis.url)) as made:
            await made.append(1)
            await made.redis.config_set("maxmemory", "1")
            began = time.monotonic()
            assert "Nothing was kept" in await refused(made, 2)
            assert time.monotonic() - began < 2
            await made.redis.config_set("maxmemory", "0")
            await made.append(3)
            assert await made.numbers() == [1, 3]

    asyncio.run(run())


def test_a_replica_that_becomes_the_primary_is_waited_for(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: READONLY, which a failover gives for a moment, is asked again instead of a 500."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, own_redis.url)) as made:
            await made.append(1)
            await made.redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
            task = asyncio.create_task(made.append(2))
            await asyncio.wait([task], timeout=0.3)
            assert not task.done()
            await made.redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            await task
            assert await made.numbers() == [1, 2]

    asyncio.run(run())


def test_a_paused_redis_says_that_the_event_may_be_kept(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: after a time-out the answer is never "nothing was kept"; here it has been."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, limits={"append_timeout": 0.6})
        async with edge(settings) as made:
            await made.append(1)
            own_redis.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            detail = await refused(made, 2)
            assert time.monotonic() - began < 2.0, "append_timeout is the bound of the whole wait"
            assert "not known whether" in detail
            own_redis.process.send_signal(signal.SIGCONT)
            await made.append(3)
            numbers = await made.numbers()
            assert numbers.count(3) == 1
            assert numbers.count(2) <= 1

    asyncio.run(run())


def test_groups_that_queue_behind_an_outage_wait_no_longer_than_the_first(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    """Safeguard: the deadline of a group runs from when it formed, not from when its turn comes."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, limits={"append_timeout": 1.0})
        async with edge(settings) as made:
            await made.append(1)
            own_redis.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            results = await asyncio.gather(*(made.append(n) for n in range(10_000)), return_exceptions=True)
            assert all(isinstance(result, ApiError) for result in results)
            assert time.monotonic() - began < 6  # ten groups, one after the other, would take ten seconds

    asyncio.run(run())


def test_no_redis_at_all_says_that_nothing_was_kept(tmp_path: Path) -> None:
    """Safeguard: a connection that never was cannot have carried the event."""

    async def run() -> None:
        settings = make_settings(tmp_path, f"unix://{tmp_path}/none.sock", limits={"append_timeout": 0.3})
        async with edge(settings) as made:
            assert "Nothing was kept" in await refused(made)

    asyncio.run(run())


def test_pending_bytes_are_bounded(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: max_pending_bytes; and what was taken before the bound still goes in."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, limits={"max_pending_bytes": 20_000})
        async with edge(settings) as made:
            own_redis.process.send_signal(signal.SIGSTOP)
            tasks = [asyncio.create_task(made.append(n)) for n in range(1000)]

            async def some_are_refused() -> bool:
                return sum(task.done() for task in tasks) > 500

            await async_until(some_are_refused, 5)
            own_redis.process.send_signal(signal.SIGCONT)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            kept = [result for result in results if isinstance(result, int)]
            details = {result.detail for result in results if isinstance(result, ApiError)}
            assert details == {"Too many events wait to be kept; nothing was kept."}
            assert sorted(await made.numbers()) == kept
            assert 20 < len(kept) < 500
            await made.append(5000)  # the bytes were given back

    asyncio.run(run())


def test_a_client_that_leaves_does_not_take_its_neighbours_along(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    """Safeguard: the shield around the group's future."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, own_redis.url)) as made:
            await made.append(0)
            own_redis.process.send_signal(signal.SIGSTOP)
            tasks = [asyncio.create_task(made.append(n)) for n in range(1, 11)]
            await asyncio.wait(tasks, timeout=0.1)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks[::2])
            own_redis.process.send_signal(signal.SIGCONT)
            assert await asyncio.gather(*tasks[1::2]) == [2, 4, 6, 8, 10]
            assert sorted(await made.numbers()) == list(range(11))

    asyncio.run(run())


def test_close_while_redis_is_away_answers_everybody(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: whoever still waits when the edge stops gets a 503, not silence."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, limits={"append_timeout": 0.5})
        async with edge(settings) as made:
            await made.append(0)
            own_redis.process.send_signal(signal.SIGSTOP)
            tasks = [asyncio.create_task(made.append(n)) for n in range(3000)]
            await asyncio.wait(tasks, timeout=0.1)
            await made.appender.close()
            done, waiting = await asyncio.wait(tasks, timeout=2)
            assert not waiting
            assert all(isinstance(task.exception(), ApiError) for task in done)

    asyncio.run(run())
