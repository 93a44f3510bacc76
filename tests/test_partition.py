"""The drain's end of the stream against a real Redis: one owner, fenced by the epoch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from redis.asyncio import Redis

from app import redis_client
from app.ledger import bucket, field
from app.partition import Freshness, LeaseLost, Partition
from app.settings import Settings
from app.stream import Keys
from tests.pipeline_kit import (
    LEASE_MS,
    assert_conserved,
    entries,
    ledger,
    make_keys,
    make_settings,
    put,
    queued,
    record,
)
from tests.redis_fixture import start_redis
from tests.waiting import async_until


class Opened(NamedTuple):
    """A partition's Redis."""

    redis: Redis
    keys: Keys
    version: tuple[int, int]

    def partition(self, slot: str) -> Partition:
        return Partition(self.redis, self.keys, slot, self.version)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Opened]:
    redis = redis_client.connect(settings)
    try:
        version = await redis_client.wait_for_version(redis, asyncio.Event())
        yield Opened(redis, make_keys(settings), version)
    finally:
        await redis.aclose()


async def everything(redis: Redis, keys: Keys) -> dict[bytes, object]:
    """All keys of the partition as Redis would dump them, but for the lease, whose time runs."""
    names = cast("list[bytes]", await redis.keys("eb:*"))
    return {name: await redis.dump(name) for name in sorted(names) if name != keys.lease.encode()}


def fates(**numbers: int) -> dict[str, int]:
    """Changes of the ledger, all of this hour and of the project that `record` names."""
    where = bucket("prj_test", time.time_ns() // 1_000_000)
    return {field(where, fate): number for fate, number in numbers.items()}


async def last_id(redis: Redis, keys: Keys) -> str:
    return (await entries(redis, keys.entries))[-1][0].decode()


def test_one_owner_at_a_time(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: ACQUIRE gives nothing to another slot while the lease runs; release frees it at once."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            a, b = made.partition("a"), made.partition("b")
            assert await a.acquire(LEASE_MS)
            assert not await b.acquire(LEASE_MS)
            assert await a.acquire(LEASE_MS), "the owner may ask again"
            assert a.epoch == 2, "and fences what it sent before"
            await b.release()
            assert not await b.acquire(LEASE_MS), "only the owner releases"
            await a.release()
            assert await b.acquire(LEASE_MS)
            assert b.epoch == 3

    asyncio.run(run())


def test_two_owners_never_share_an_epoch(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: the epoch rises with each change of hands, whoever asks at the same moment."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            drains = [made.partition(f"slot{n}") for n in range(8)]
            assert sum(await asyncio.gather(*(d.acquire(LEASE_MS) for d in drains))) == 1

    asyncio.run(run())


def test_the_same_slot_takes_over_at_once(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: a restarted drain does not wait for its own former lease, and fences its former life."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            former, restarted = made.partition("a/1"), made.partition("a/1")
            assert await former.acquire(LEASE_MS)
            assert await restarted.acquire(LEASE_MS)
            assert restarted.epoch == former.epoch + 1
            with pytest.raises(LeaseLost):
                await former.renew(LEASE_MS)
            await restarted.renew(LEASE_MS)

    asyncio.run(run())


def test_a_former_life_does_not_take_the_lease_back(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: only a process that never owned may skip the wait; else two of a slot take turns for ever."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            former, restarted = made.partition("a"), made.partition("a")
            assert await former.acquire(LEASE_MS)
            assert await restarted.acquire(LEASE_MS)
            assert not await former.acquire(LEASE_MS)
            await restarted.renew(LEASE_MS)
            await restarted.release()
            assert await former.acquire(LEASE_MS)

    asyncio.run(run())


def test_an_expired_lease_is_taken(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: the lease ends by itself; its former owner cannot prolong what it has lost."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            a, b = made.partition("a"), made.partition("b")
            assert await a.acquire(50)
            await async_until(lambda: b.acquire(LEASE_MS), 2)
            with pytest.raises(LeaseLost):
                await a.renew(LEASE_MS)
            await a.release()
            await b.renew(LEASE_MS)

    asyncio.run(run())


def test_a_former_owner_changes_nothing(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: renew, save_plan and acknowledge compare the epoch inside the script."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            redis, keys = made.redis, made.keys
            former, owner = made.partition("a"), made.partition("a")
            await put(redis, keys, [record(), record()])
            assert await former.acquire(LEASE_MS)
            await former.save_plan(b"former")
            assert await owner.acquire(LEASE_MS)
            await owner.save_plan(b"owner")
            before = await everything(redis, keys)
            with pytest.raises(LeaseLost):
                await former.save_plan(b"late")
            with pytest.raises(LeaseLost):
                await former.acknowledge(await last_id(redis, keys), fates(stored=2), [("ab", b"dead")])
            with pytest.raises(LeaseLost):
                await former.renew(LEASE_MS)
            assert await everything(redis, keys) == before

    asyncio.run(run())


def test_acknowledging_is_one_step(tmp_path: Path, redis_url: str) -> None:
    """Safeguards: entries, plan, ledger and dead letters change together; what came later stays."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            redis, keys = made.redis, made.keys
            owner = made.partition("a")
            assert await owner.acquire(LEASE_MS)
            await put(redis, keys, [record(), record(), record()])
            last = await last_id(redis, keys)
            later = record()
            await put(redis, keys, [later])
            await owner.save_plan(b"plan")
            await assert_conserved(redis, keys)
            await owner.acknowledge(last, fates(stored=2, dead=1), [("ab", b"dead")])
            assert await queued(redis, keys) == [later]
            assert await owner.load_plan() is None
            assert await ledger(redis, keys) == {"appended": 4, "stored": 2, "dead": 1}
            ((letter, fields),) = await entries(redis, keys.dead)
            assert fields == {b"d": b"dead"}
            assert await redis.hgetall(keys.dead_ids) == {b"ab": letter}
            assert await redis.hget(keys.progress, "acknowledged") == last.encode()
            await assert_conserved(redis, keys)

    asyncio.run(run())


def test_a_dead_letter_that_cannot_be_written_blocks_the_acknowledgement(
    tmp_path: Path, redis_url: str
) -> None:
    """Safeguard: dead letters are written first, so that an error leaves the entries and the plan."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            redis, keys = made.redis, made.keys
            owner = made.partition("a")
            assert await owner.acquire(LEASE_MS)
            await put(redis, keys, [record()])
            await owner.save_plan(b"plan")
            await redis.set(keys.dead, "not a stream")
            before = await everything(redis, keys)
            with pytest.raises(Exception, match="WRONGTYPE"):
                await owner.acknowledge(await last_id(redis, keys), fates(dead=1), [("ab", b"dead")])
            assert await everything(redis, keys) == before

    asyncio.run(run())


def test_a_full_redis_can_be_drained(tmp_path: Path) -> None:
    """Safeguard: allow-oom on the drain's scripts; without it a full Redis would stay full for ever."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, server.url)) as made:
            redis, keys = made.redis, made.keys
            owner = made.partition("a")
            await put(redis, keys, [record(), record()])
            await redis.config_set("maxmemory", "1")
            assert await owner.acquire(LEASE_MS)
            await owner.renew(LEASE_MS)
            await owner.save_plan(b"plan")
            await owner.acknowledge(await last_id(redis, keys), fates(stored=1, dead=1), [("ab", b"dead")])
            assert await queued(redis, keys) == []
            await owner.release()

    server = start_redis(tmp_path)
    try:
        asyncio.run(run())
    finally:
        server.kill()


def test_reading_is_by_position(tmp_path: Path, redis_url: str) -> None:
    """What a plan names is read again in the same order, whatever came in the meantime."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            redis, keys = made.redis, made.keys
            owner = made.partition("a")
            assert not await owner.wait(1)
            for _ in range(5):
                await put(redis, keys, [record()])
            assert await owner.wait(1)
            first = await owner.read(None, 3)
            rest = await owner.read(first[-1].id, 3)
            assert len(first) == 3
            assert len(rest) == 2
            await put(redis, keys, [record()])
            assert await owner.read_range(first[0].id, rest[-1].id) == first + rest

    asyncio.run(run())


def test_freshness_takes_one_round_trip_for_any_number_of_partitions(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, those of an edge far from Redis would take longer than a query waits for them."""

    async def run() -> None:
        asked, all_asked = 0, asyncio.Event()

        async def answer_when_all_are_asked(keys: list[str]) -> tuple[bytes, bytes]:
            nonlocal asked
            asked += 1
            if asked == 8:
                all_asked.set()
            await all_asked.wait()
            return b"1000", b"0"

        async with opened(make_settings(tmp_path, redis_url)) as made:
            freshness = Freshness(made.redis, "events", 8)
            monkeypatch.setattr(freshness, "_script", answer_when_all_are_asked)
            async with asyncio.timeout(10):
                assert await freshness.fresh_as_of() == 999

    asyncio.run(run())


def test_freshness_is_that_of_the_oldest_entry(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: `fresh_as_of` never claims an event that is not acknowledged, in any partition."""

    async def run() -> None:
        async with opened(make_settings(tmp_path, redis_url)) as made:
            redis, keys = made.redis, made.keys
            freshness = Freshness(redis, "events", 2)
            seconds, micros = await redis.time()
            assert await freshness.fresh_as_of() >= seconds * 1000 + micros // 1000 - 1
            await put(redis, keys, [record()])
            oldest = int((await last_id(redis, keys)).partition("-")[0])
            await put(redis, keys, [record()])
            assert await freshness.fresh_as_of() == oldest - 1
            owner = made.partition("a")
            assert await owner.acquire(LEASE_MS)
            await owner.prove_progress(seconds * 1000)
            lag = await freshness.lag()
            assert [one.entries for one in lag] == [2, 0]
            assert lag[0].ledger == {"appended": 2}
            assert lag[0].proved_ms_ago is not None
            assert lag[1].proved_ms_ago is None

    asyncio.run(run())
