"""The edge's end of the stream against a real Redis: every append that returned is there exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import redis_client
from app.append import Appender
from app.errors import ApiError, Kind
from app.settings import Settings
from app.stream import Keys, encode_record, split_group
from tests.pipeline_kit import entries, make_keys, make_settings, queued, record
from tests.redis_fixture import RedisServer, start_redis
from tests.redis_proxy import losing_proxy
from tests.waiting import async_until


class Edge:
    """An appender and a client that looks at what it did."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.redis = redis
        self.keys: Keys = make_keys(settings)
        self.appender = Appender(redis.connection_pool, self.keys, settings)

    async def append(self, number: int) -> int:
        await self.appender.append(encode_record(record(b'{"n":%d}' % number)))
        return number

    async def numbers(self, redis: Redis | None = None) -> list[int]:
        """What the stream holds, in its order."""
        return [int(one.body[5:-1]) for one in await queued(redis or self.redis, self.keys)]


@contextlib.asynccontextmanager
async def edge(settings: Settings) -> AsyncIterator[Edge]:
    redis = redis_client.connect(settings)
    made = Edge(settings, redis)
    try:
        yield made
    finally:
        await made.appender.close()
        await redis.aclose()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop, kill and fill."""
    server = start_redis(tmp_path)
    yield server
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.process.pid, signal.SIGCONT)
    server.kill()


async def refused(made: Edge, number: int = 1) -> str:
    """The detail of the 503 that an append gets."""
    with pytest.raises(ApiError) as caught:
        await made.append(number)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retry_after_seconds
    return caught.value.detail


def test_a_lone_record_goes_at_once(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: no timer before an append; fifty one after the other would add up."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await made.append(0)
            began = time.monotonic()
            for number in range(1, 51):
                await made.append(number)
            assert time.monotonic() - began < 2.5
            assert await made.numbers() == list(range(51))
            assert await made.redis.xlen(made.keys.entries) == 51

    asyncio.run(run())


def test_a_thousand_at_once_share_few_appends(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: group commit; and the ledger counts events, not entries."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await asyncio.gather(*(made.append(n) for n in range(1000)))
            assert await made.redis.xlen(made.keys.entries) <= 4
            assert sorted(await made.numbers()) == list(range(1000))
            assert await made.redis.hget(made.keys.ledger, "appended") == b"1000"

    asyncio.run(run())


def test_a_group_is_bounded(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: MAX_GROUP_RECORDS and MAX_GROUP_BYTES, the bound of one entry."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await asyncio.gather(*(made.append(n) for n in range(2500)))
            big = encode_record(record(b'{"x":"%s"}' % (b"x" * 300_000)))
            await asyncio.gather(*(made.appender.append(big) for _ in range(12)))
            payloads = [fields[b"r"] for _, fields in await entries(made.redis, made.keys.entries)]
            assert max(len(split_group(payload)) for payload in payloads) <= 1000
            assert max(map(len, payloads)) < 1024 * 1024 + len(big) + 16
            assert sum(len(split_group(payload)) for payload in payloads) == 2512

    asyncio.run(run())


def test_the_same_incarnation_and_sequence_twice_is_a_no_op(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: the script compares the sequence with the last one of the incarnation."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await made.append(1)
            made.appender._sequence -= 1
            await made.append(1)
            assert await made.numbers() == [1]
            assert await made.redis.hget(made.keys.ledger, "appended") == b"1"
            await made.append(2)
            assert await made.numbers() == [1, 2]

    asyncio.run(run())


def test_a_lost_reply_is_repeated_and_stored_once(
    tmp_path: Path, redis_server: RedisServer, redis_url: str
) -> None:
    """Safeguards: the append is repeated at all, and under its own sequence number."""

    async def run() -> None:
        socket = tmp_path / "proxy.sock"
        settings = make_settings(tmp_path, f"unix://{socket}")
        async with losing_proxy(redis_server.socket, socket) as proxy, edge(settings) as made:
            await made.append(0)
            for number in range(1, 6):
                proxy.swallow = number % 3 + 1
                await made.append(number)
            assert proxy.swallowed == 2 + 3 + 1 + 2 + 3
            assert await made.numbers() == list(range(6))

    asyncio.run(run())


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

            async def some(count: int) -> bool:
                return len(answered) >= count

            for count in (400, 1200):
                await async_until(lambda count=count: some(count), 20)
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
            assert details == {"Too many events wait for Redis; nothing was kept."}
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


def test_flushed_scripts_are_no_failure(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: NOSCRIPT is answered with the script itself."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            for number in range(4):
                await made.redis.script_flush()
                await made.append(number)
            assert await made.numbers() == [0, 1, 2, 3]

    asyncio.run(run())


def test_close_removes_the_incarnation(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: the producers hash does not grow by one field with each clean stop."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await made.append(1)
            assert await made.redis.hlen(made.keys.producers) == 1
            await made.appender.close()
            assert await made.redis.hlen(made.keys.producers) == 0

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
