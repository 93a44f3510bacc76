"""What beats tell of an edge's clock, and still tell while Redis stands still, is away, or has just come back."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from app import presence
from app.layout import Expected
from app.presence import Member, Presence
from app.redis_clock import Ahead, learn
from tests.redis_fixture import RedisServer, start_redis
from tests.waiting import async_until

SKEW_MS = 30_000
STILL_MS = 1_500
BEAT_MS = 500  # a beat, on a busy machine


@pytest.mark.parametrize(
    ("known", "asked", "redis", "answered", "expected"),
    [
        (None, 1000, 900, 1010, Ahead(100, 110)),
        (None, 1000, 900, 9000, Ahead(100, 8100)),
        (Ahead(0, 5), 1000, 900, 1050, Ahead(100, 150)),
        (Ahead(90, 160), 1000, 900, 1050, Ahead(100, 150)),
        (Ahead(149, 160), 1000, 900, 1050, Ahead(149, 160)),
        (Ahead(102, 105), 1000, 900, 9000, Ahead(102, 105)),  # the answer was long under way
        (Ahead(102, 105), 1000, 4000, 9000, Ahead(102, 105)),  # or the question, too
        (Ahead(102, 105), 1000, 8990, 9000, Ahead(-7990, 10)),  # that cannot be the same clock: it was set
        (Ahead(8200, 8210), 1000, 900, 9000, Ahead(100, 8100)),
    ],
)
def test_bounds_are_learned_from_what_says_most(
    known: Ahead | None, asked: int, redis: int, answered: int, expected: Ahead
) -> None:
    assert learn(known, asked, redis, answered) == expected


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = start_redis(tmp_path)
    yield started
    started.process.send_signal(signal.SIGCONT)
    started.stop()


def run(server: RedisServer, test: Callable[[Redis], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        redis = Redis.from_url(server.url, socket_timeout=20)
        try:
            async with asyncio.timeout(60):
                await test(redis)
        finally:
            await redis.aclose()

    asyncio.run(bounded())


def edge(
    redis: Redis, *, life: float, place: str = "here", spooled: Callable[[], int] = lambda: 0
) -> Presence:
    return Presence(
        *(redis, Expected("events", 1), "edge"),
        id=place,
        place=place,
        life_seconds=life,
        redis_version=(7, 0),
        spooled=spooled,
    )


@pytest.fixture(params=[SKEW_MS, -SKEW_MS], ids=["ahead", "behind"])
def skew_ms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """By how much the clock of every edge of this process is ahead."""
    skew = int(request.param)
    monkeypatch.setattr(
        "app.presence.time", SimpleNamespace(time_ns=lambda: time.time_ns() + skew * 1_000_000)
    )
    return skew


async def assert_known(redis: Redis, skew_ms: int) -> None:
    """The bounds of all clocks, of which Redis's own is one, to the part of a second that a beat may take."""
    found = await presence.clocks(redis, "events")
    assert found.least <= min(0, skew_ms) <= max(0, skew_ms) <= found.most
    assert found.most - found.least <= SKEW_MS + BEAT_MS


async def only(redis: Redis) -> Member:
    (one,) = await presence.listed(redis, "events", "edge")
    return one


def test_the_first_beat_tells_of_the_clock(server: RedisServer, skew_ms: int) -> None:
    async def test(redis: Redis) -> None:
        await edge(redis, life=30).beat()
        await assert_known(redis, skew_ms)

    run(server, test)


def test_who_looks_dead_after_an_outage_has_the_clock_that_it_had(server: RedisServer, skew_ms: int) -> None:
    """Its next beat is still to come, and what it answers until then has its clock's time."""

    async def test(redis: Redis) -> None:
        await edge(redis, life=0.05, place="one").beat()
        await async_until(lambda: is_dead(redis), 5, "its end, as far as Redis knows")
        server.kill()
        server.start()
        await redis.connection_pool.disconnect()
        await assert_known(redis, skew_ms)
        await edge(redis, life=30, place="another").beat()
        await assert_known(redis, skew_ms)

    run(server, test)


async def is_dead(redis: Redis) -> bool:
    return (await only(redis)).dead_ms > 0


def test_a_beat_that_waited_in_a_redis_that_stood_still_is_no_news(server: RedisServer, skew_ms: int) -> None:
    """Neither of the clock, nor of a spool: whoever sent it may have died long ago."""

    async def test(redis: Redis) -> None:
        groups = 0
        one = edge(redis, life=30, spooled=lambda: groups)
        await one.beat()
        await one.beat()
        server.process.send_signal(signal.SIGSTOP)
        said_ms = time.time_ns() // 1_000_000
        waits = asyncio.create_task(one.beat())
        await async_until(lambda: passed(said_ms + STILL_MS), 10, "a while")
        server.process.send_signal(signal.SIGCONT)
        await waits
        await assert_known(redis, skew_ms)
        assert (await only(redis)).told_ms <= said_ms + BEAT_MS
        await one.beat()  # tells what it learned from the answer that took so long: nothing
        await assert_known(redis, skew_ms)
        assert (await only(redis)).told_ms > said_ms + STILL_MS - BEAT_MS

    run(server, test)


async def passed(moment_ms: int) -> bool:
    return time.time_ns() // 1_000_000 > moment_ms


def test_a_clock_that_is_set_is_known_by_the_next_beats(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(redis: Redis) -> None:
        one = edge(redis, life=30)
        await one.beat()
        shifted = SimpleNamespace(time_ns=lambda: time.time_ns() + SKEW_MS * 1_000_000)
        monkeypatch.setattr("app.presence.time", shifted)
        await one.beat()
        await one.beat()
        await assert_known(redis, SKEW_MS)

    run(server, test)
