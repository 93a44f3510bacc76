"""Partitions among drains: fair shares, quick takeover, nothing moved without need, nothing left alone."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import redis_client
from app.layout import Layout
from app.partition import Standing
from app.presence import View
from app.settings import Settings
from tests.pipeline_kit import put, record
from tests.sharing_kit import Queue, queue, real_drain
from tests.store_fixture import StoreServer
from tests.waiting import async_until
from workers.sharing import SURPLUS_LOOKS, Sharing, fair_share

Open = Callable[..., AbstractAsyncContextManager[Queue]]


@pytest.fixture
def opened(
    tmp_path: Path,
    redis_url: str,
    store_server: StoreServer,
    store_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Open:
    """Opens the queue of this test: `opened(shards, consumer setting=…)`."""

    def open_queue(shards: int, **consumer: float) -> AbstractAsyncContextManager[Queue]:
        return queue(
            tmp_path, redis_url, store_server, store_database, monkeypatch, shards=shards, consumer=consumer
        )

    return open_queue


async def shared(made: Queue, expected: dict[str, int], seconds: float = 8) -> None:
    async def is_so() -> bool:
        return await made.held() == expected

    try:
        await async_until(is_so, seconds)
    except AssertionError:
        raise AssertionError(f"{await made.held()} instead of {expected}") from None


def test_shares_follow_who_comes_and_goes(opened: Open) -> None:
    """Safeguards: a newcomer gets its share, no more; who stops or dies is replaced; nothing else moves."""

    async def run() -> None:
        async with opened(8) as made:
            await made.start("a")
            await shared(made, {"a": 8})
            await made.start("b")
            await shared(made, {"a": 4, "b": 4})
            await made.start("c")
            await shared(made, {"a": 3, "b": 3, "c": 2})
            assert sum(await made.epochs()) == 8 + 4 + 2, "each newcomer moved its own share only"
            began = time.monotonic()
            await made.stop("b")
            await shared(made, {"a": 4, "c": 4})
            assert time.monotonic() - began < made.settings.consumer.lease_timeout + 1
            began = time.monotonic()
            await made.kill("a")
            await shared(made, {"c": 8})
            assert time.monotonic() - began < made.settings.consumer.lease_timeout + 1

    asyncio.run(run())


def test_a_restart_in_the_same_slot_takes_its_own_back_at_once(opened: Open) -> None:
    """Safeguard: nobody waits for the lease of a former life, and the others hold what they held."""

    async def run() -> None:
        async with opened(6, lease_timeout=5.0) as made:
            await made.start("a")
            await made.start("b")
            await shared(made, {"a": 3, "b": 3})
            before, epochs = await made.owners(), await made.epochs()
            await made.kill("a")
            began = time.monotonic()
            await made.start("a")

            async def taken() -> bool:
                return sum(await made.epochs()) == sum(epochs) + 3

            await async_until(taken, 4)
            assert time.monotonic() - began < 2
            assert await made.owners() == before

    asyncio.run(run())


def test_more_drains_than_partitions(opened: Open) -> None:
    """Safeguard: who has no share waits, and is there when one is left alone."""

    async def run() -> None:
        async with opened(2) as made:
            for slot in "abcd":
                await made.start(slot)
                await asyncio.sleep(0.2)  # so that they join in this order
            await shared(made, {"a": 1, "b": 1})
            await made.kill("a")
            await made.stop("b")
            await shared(made, {"c": 1, "d": 1})

    asyncio.run(run())


def test_two_in_one_slot_do_not_take_turns(opened: Open) -> None:
    """Safeguard: the second has the slot, the first goes on under another name and shares like anybody."""

    async def run() -> None:
        async with opened(4) as made:
            await made.start("a")
            await shared(made, {"a": 4})
            first = made.tasks.pop("a")
            await made.start("a")
            made.tasks["first"] = first

            async def both_own() -> bool:
                owners = {await made.redis.get(keys.lease) for keys in made.partitions}
                members = await made.redis.zrange("eb:{events}:drains", 0, -1)
                return len(members) == 2 and None not in owners

            await async_until(both_own, 5)
            await asyncio.sleep(1.5)
            epochs = await made.epochs()
            await asyncio.sleep(1.5)
            assert await made.epochs() == epochs, "they come to rest"
            assert await made.held() == {"a": 4}, "leases name the slot they were taken for"

    asyncio.run(run())


def test_a_start_that_dies_at_once_moves_nothing(opened: Open) -> None:
    """Safeguard: a surplus must be seen twice."""

    async def run() -> None:
        async with opened(4, lease_timeout=5.0) as made:
            await made.start("a")
            await shared(made, {"a": 4})
            for _ in range(3):
                await made.start("b")
                await async_until(lambda: made.redis.zscore("eb:{events}:drains", "b"), 3)
                await made.stop("b")
            assert await made.epochs() == [1, 1, 1, 1]

    asyncio.run(run())


@pytest.mark.timeout(120)
def test_256_partitions(opened: Open) -> None:
    """Safeguard: connections and looks are sized for the largest number; events flow."""

    async def run() -> None:
        async with opened(256, lease_timeout=5.0) as made:
            await made.start("a")
            await shared(made, {"a": 256}, 30)
            await made.start("b")
            await shared(made, {"a": 128, "b": 128}, 30)
            some = made.partitions[::16]
            for keys in some:
                await put(made.redis, keys, [record()])

            async def drained() -> bool:
                return sum([await made.redis.xlen(keys.entries) for keys in some]) == 0

            await async_until(drained, 20)

    asyncio.run(run())


def test_moving_partitions_loses_and_doubles_nothing(opened: Open) -> None:
    """Safeguard: a partition is given back after the batch in hand, or its plan is settled by the next."""

    async def run() -> None:
        async with opened(4) as made:

            async def send() -> None:
                while True:
                    for keys in made.partitions:
                        await put(made.redis, keys, [record() for _ in range(20)])
                    await asyncio.sleep(0.01)

            await made.start("a")
            sender = asyncio.create_task(send())
            for step in (("start", "b"), ("start", "c"), ("kill", "a"), ("stop", "b"), ("start", "a")):
                await getattr(made, step[0])(step[1])
                await asyncio.sleep(1.2)
            await redis_client.stop_tasks(sender)

            await async_until(lambda: _is_drained(made), 20)
            stored = [int(await made.redis.hget(keys.ledger, "stored") or 0) for keys in made.partitions]
            appended = [int(await made.redis.hget(keys.ledger, "appended") or 0) for keys in made.partitions]
            assert stored == appended
            assert await made.rows() == (sum(appended), sum(appended))
            assert sum(appended) > 1000

    asyncio.run(run())


def test_a_drain_that_stands_still_is_replaced_and_rejoins(
    opened: Open, tmp_path: Path, redis_url: str, store_server: StoreServer, store_database: str
) -> None:
    """Safeguards: it finds out that its leases are gone before it inserts; it gets a share again, and no more."""

    async def run() -> None:
        async with opened(2) as made:
            processes = [
                real_drain(tmp_path, slot, redis_url, store_server, store_database, shards=2) for slot in "ab"
            ]
            try:
                await shared(made, {"a": 1, "b": 1}, 30)
                processes[0].send_signal(signal.SIGSTOP)
                for _ in range(10):
                    for keys in made.partitions:
                        await put(made.redis, keys, [record() for _ in range(50)])
                await shared(made, {"b": 2})
                processes[0].send_signal(signal.SIGCONT)
                for keys in made.partitions:
                    await put(made.redis, keys, [record() for _ in range(50)])
                await shared(made, {"a": 1, "b": 1}, 20)
                await async_until(lambda: _is_drained(made), 20)
                assert await made.rows() == (1100, 1100)
                processes[0].terminate()
                assert await asyncio.to_thread(processes[0].wait, 15) == 0
                assert await made.redis.zrange("eb:{events}:drains", 0, -1) == [b"b"], "gone at once"
                refused = real_drain(tmp_path, "c", redis_url, store_server, store_database, shards=3)
                assert await asyncio.to_thread(refused.wait, 15) == 2
                assert "set queues.producers[0].shards = 2" in (tmp_path / "c.log").read_text()
            finally:
                for process in processes:
                    process.kill()
                    await asyncio.to_thread(process.wait, 15)

    asyncio.run(run())


async def _is_drained(made: Queue) -> bool:
    return sum([await made.redis.xlen(keys.entries) for keys in made.partitions]) == 0


# --- The rule by itself, with time taken out ---------------------------------------------------------


class Member:
    """One drain of a model: its looks, against leases in a dict."""

    def __init__(self, name: str, partitions: int, settings: Settings) -> None:
        self.name = name
        drains = [SimpleNamespace(owner=f"{name}/{n}") for n in range(partitions)]
        presence = SimpleNamespace(id=name)
        self.sharing = Sharing(cast(Any, None), cast(Any, presence), [], cast(Any, drains), settings)

    def look(self, leases: dict[int, str], members: list[str], partitions: int) -> int:
        """Take and give back as the rule says; how many partitions that moved."""
        standings = [Standing(leases.get(n, ""), is_empty=True) for n in range(partitions)]
        wanted = self.sharing._wanted(View(Layout(partitions, partitions), members), standings)
        mine = {n for n, owner in leases.items() if owner == f"{self.name}/{n}"}
        for n in mine - wanted:
            del leases[n]
        for n in wanted - mine:
            assert n not in leases, "only what is free is taken"
            leases[n] = f"{self.name}/{n}"
        return len(mine ^ wanted)


@given(st.integers(1, 256), st.integers(1, 300))
def test_shares_are_fair_and_complete(partitions: int, members: int) -> None:
    shares = [fair_share(partitions, members, place) for place in range(members)]
    assert sum(size for _, size in shares) == partitions
    assert max(size for _, size in shares) == -(-partitions // members)
    covered = [n for begin, size in shares for n in range(begin, begin + size)]
    assert covered == list(range(partitions))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.booleans(), min_size=1, max_size=12), st.randoms())
def test_every_history_comes_to_rest_with_fair_shares(
    partitions: int, joins: list[bool], chance: random.Random
) -> None:
    """Safeguards: no flapping, and no partition alone while somebody has room."""
    configured = _configured(partitions)
    leases: dict[int, str] = {}
    members: list[Member] = []
    for number, joins_now in enumerate([True, *joins]):
        if joins_now or not members:
            members.append(Member(f"d{number}", partitions, configured))
        else:
            gone = members.pop(chance.randrange(len(members)))
            for n in [n for n, owner in leases.items() if owner.startswith(f"{gone.name}/")]:
                del leases[n]  # its leases have ended
            if not members:
                continue
        names = [member.name for member in members]
        for _ in range(2 * SURPLUS_LOOKS + 2):
            moved = sum(
                member.look(leases, names, partitions) for member in chance.sample(members, len(members))
            )
        assert moved == 0, "at rest"
        held = [sum(owner.startswith(f"{name}/") for owner in leases.values()) for name in names]
        assert held == [fair_share(partitions, len(names), place)[1] for place in range(len(names))]


def _configured(partitions: int) -> Settings:
    consumer = SimpleNamespace(lease_timeout=5.0)
    return cast(Settings, SimpleNamespace(consumer=consumer, producer=SimpleNamespace(shards=partitions)))
