"""Events while Redis is away, full or slow: in the edge's own spool, and then in the stream once, in order."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import signal
import time
from pathlib import Path

import pytest

from app import redis_client
from app.errors import ApiError
from app.spool_segment import SEGMENT_BYTES
from app.spool_slot import adopt, take_free
from tests.append_edge import edge, own_redis, refused, spooling_edge
from tests.pipeline_kit import assert_conserved, make_settings
from tests.redis_fixture import RedisServer
from tests.redis_proxy import losing_proxy
from tests.waiting import async_until

__all__ = ["own_redis"]

QUICK = {"redis_timeout": 0.2}


def test_redis_goes_away_and_comes_back(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguards: nothing is refused while Redis is away; all of it is in the stream once, in order."""

    async def run() -> None:
        async with spooling_edge(make_settings(tmp_path, own_redis.url, spool=QUICK)) as made:
            await made.append(0)
            own_redis.kill()
            for number in range(1, 200):
                await made.append(number)
            assert made.spool.groups
            await asyncio.to_thread(own_redis.start)
            for number in range(200, 400):
                await made.append(number)
            await async_until(made.is_replayed, 10)
            await made.append(400)
            assert await made.numbers() == list(range(401))
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_a_group_of_unknown_fate_is_spooled_and_stored_once(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: an append that Redis executed without a heard answer is replayed under the same id."""

    async def run() -> None:
        socket = tmp_path / "proxy.sock"
        settings = make_settings(tmp_path, f"unix://{socket}", spool=QUICK)
        async with losing_proxy(own_redis.socket, socket) as proxy, spooling_edge(settings) as made:
            await made.append(0)
            for number in range(1, 30):
                proxy.swallow = number % 5 and 100  # far more answers than redis_timeout has tries for
                task = asyncio.create_task(made.append(number))
                await asyncio.wait([task], timeout=5)
                proxy.swallow = 0
                await task
                await async_until(made.is_replayed, 10)
            assert proxy.swallowed > 20
            assert await made.numbers() == list(range(30))
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_a_stopped_redis_is_slow_redis(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: redis_timeout bounds what a client waits for Redis; flipping back and forth doubles nothing."""

    async def run() -> None:
        async with spooling_edge(make_settings(tmp_path, own_redis.url, spool=QUICK)) as made:
            number = 0
            for _ in range(4):
                own_redis.process.send_signal(signal.SIGSTOP)
                began = time.monotonic()
                await asyncio.gather(*(made.append(n) for n in range(number, number + 50)))
                assert time.monotonic() - began < 2
                own_redis.process.send_signal(signal.SIGCONT)
                await asyncio.gather(*(made.append(n) for n in range(number + 50, number + 100)))
                number += 100
            await async_until(made.is_replayed, 10)
            assert sorted(await made.numbers()) == list(range(number))
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_a_full_redis_and_a_full_stream_are_spared(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguards: out of memory and the high-water mark send events to the spool, not back to the client."""

    async def run() -> None:
        async with spooling_edge(make_settings(tmp_path, own_redis.url, spool=QUICK)) as made:
            await made.append(0)
            await made.redis.config_set("maxmemory", "1")
            for number in range(1, 20):
                await made.append(number)
            assert await made.numbers() == [0]
            await made.redis.config_set("maxmemory", "0")
            await async_until(made.is_replayed, 10)
            made.pressure.reason = "The stream has reached its high-water mark"
            for number in range(20, 40):
                await made.append(number)
            assert await made.numbers() == list(range(20))
            made.pressure.reason = ""
            await async_until(made.is_replayed, 10)
            assert await made.numbers() == list(range(40))
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_a_week_later_the_same_id(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: what a crash leaves behind is replayed once, however many lives and appends come between."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        # A life that kept everything twice: in Redis, whose answers it never heard, and in its spool.
        async with spooling_edge(settings, replays=False) as made:
            await made.append(0)
            own_redis.process.send_signal(signal.SIGSTOP)
            for number in range(1, 20):
                await made.append(number)
            own_redis.process.send_signal(signal.SIGCONT)
        for life in range(3):  # replayed, and killed before it could free the segment
            async with spooling_edge(settings, replays=False) as made:
                assert made.spool.groups >= 19
                frames = await made.spool.peek()
                for run_ in [[frame] for frame in frames]:
                    assert await made.replayer._send(run_)
                await made.append(100 + life)  # goes behind, to the spool
        async with spooling_edge(settings) as made:
            await async_until(made.is_replayed, 10)
            assert await made.numbers() == [*range(20), 100, 101, 102]
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_an_orphan_is_adopted_by_one(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguards: the slot's lock; two edges on one disk replay a third one's remains once."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        async with spooling_edge(settings, replays=False), spooling_edge(settings, replays=False) as second:
            own_redis.process.send_signal(signal.SIGSTOP)
            for number in range(50):
                await second.append(number)
            own_redis.process.send_signal(signal.SIGCONT)
        async with spooling_edge(settings, replays=False):  # the first slot is taken again
            orphan = settings.spool_path / "slot-1"
            assert list(orphan.glob("*.segment"))
            async with spooling_edge(settings) as a, spooling_edge(settings) as b:

                async def is_adopted() -> bool:
                    return sorted(await a.numbers()) == list(range(50))

                await async_until(is_adopted, 10)
                await async_until(a.is_replayed, 10)
                await async_until(b.is_replayed, 10)
                await assert_conserved(a.redis, a.keys)
        assert not [path for path in settings.spool_path.glob("*/*.segment") if "slot-0" not in str(path)]

    asyncio.run(run())


def test_a_slot_has_one_owner(tmp_path: Path) -> None:
    """Safeguard: flock; and a slot is adopted only with segments in it and without an owner."""
    first, second = take_free(tmp_path), take_free(tmp_path)
    assert (first.path.name, second.path.name) == ("slot-0", "slot-1")
    first.create(SEGMENT_BYTES)
    assert adopt(tmp_path) is None
    first.release()
    adopted = adopt(tmp_path)
    assert adopted is not None
    assert adopted.path == first.path
    assert adopt(tmp_path) is None
    assert take_free(tmp_path).path.name == "slot-2"
    assert first.path.stat().st_mode & 0o077 == 0
    assert first.segments()[0].stat().st_mode & 0o077 == 0


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguards: max_bytes; the 503 says that nothing was kept; what was accepted before is not lost."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, spool={**QUICK, "max_bytes": 2 * SEGMENT_BYTES})
        async with spooling_edge(settings) as made:
            own_redis.kill()
            kept: list[int] = []
            details: list[str] = []
            text = "x" * 60_000
            for number in range(400):
                try:
                    await made.appender.append(b"%d %s" % (number, text.encode()), "prj_test|1")
                    kept.append(number)
                except ApiError as error:
                    details.append(error.detail if error.retry_after_seconds else "no Retry-After")
            assert len(kept) > 150
            assert details
            assert all("Nothing was kept" in detail and "the spool is full" in detail for detail in details)
            assert made.spool.size_bytes <= 2 * SEGMENT_BYTES
            assert "full" in made.replayer.refusal() or made.pressure.refusal() == ""
            await asyncio.to_thread(own_redis.start)
            await async_until(made.is_replayed, 20)
            assert await made.redis.hget(made.keys.ledger, "appended") == b"%d" % len(kept)

            async def is_free() -> bool:
                return made.spool.size_bytes == SEGMENT_BYTES

            await async_until(is_free, 5, "the room is free again")

    asyncio.run(run())


def test_a_spool_that_is_deleted_is_written_again(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: a 200 needs a file that the next life finds, also after somebody cleaned up under the edge."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        async with spooling_edge(settings, replays=False) as made:
            own_redis.process.send_signal(signal.SIGSTOP)
            await made.append(0)
            shutil.rmtree(settings.spool_path)
            await made.append(1)
            for segment in settings.spool_path.glob("*/*.segment"):
                segment.unlink()
            await made.spool.look_after()  # what the replayer does four times a second
            assert adopt(settings.spool_path) is None, "the lock is a new one, and ours"
            own_redis.process.send_signal(signal.SIGCONT)
            await made.appender.close()  # the edge dies here: what follows is another life
            async with spooling_edge(settings, replays=False) as other:
                assert other.spool.groups == 0
            assert made.spool._slot is not None
            fcntl.flock(made.spool._slot._lock, fcntl.LOCK_UN)
            async with spooling_edge(settings) as next_life:
                await async_until(next_life.is_replayed, 10)
                assert await next_life.numbers() == [0, 1]

    asyncio.run(run())


def test_an_unusable_spool_and_no_redis_refuse_soon(tmp_path: Path, own_redis: RedisServer) -> None:
    """Safeguard: where neither can have the event, nobody waits for append_timeout to be told so."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        async with edge(settings) as made:
            own_redis.kill()
            watch = asyncio.create_task(made.pressure.watch())
            try:

                async def is_known() -> bool:
                    return bool(made.pressure.refusal())

                await async_until(is_known, 10)
                began = time.monotonic()
                assert "Nothing was kept" in await refused(made)
                assert time.monotonic() - began < 2
            finally:
                await redis_client.stop_tasks(watch)

    asyncio.run(run())


@pytest.mark.parametrize("shards", [1, 3])
def test_an_idle_edge_leaves_no_file(tmp_path: Path, own_redis: RedisServer, shards: int) -> None:
    """A clean stop with nothing in the spool leaves nothing that others would have to adopt."""

    async def run() -> None:
        settings = make_settings(tmp_path, own_redis.url)
        for _ in range(shards):
            async with spooling_edge(settings) as made:
                await made.append(1)
        assert not list(settings.spool_path.glob("*/*.segment"))

    asyncio.run(run())
