"""What the tests of the drain and of its inserts share: the opened bench, faults of the store, one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from app.enrich import Geography
from app.store import StoreRefused, StoreUnavailable
from app.stream import Record
from tests.pipeline_kit import (
    LEASE_MS,
    Bench,
    Fault,
    assert_conserved,
    bench,
    ledger,
    make_settings,
)
from tests.store_fixture import StoreServer
from tests.waiting import async_until
from workers import plan as plans
from workers.insert import Inserter
from workers.items import Items, read_items
from workers.plan import Plan
from workers.rows import Rows

Open = Callable[..., AbstractAsyncContextManager[Bench]]
Real = Callable[[], Awaitable[None]]


@pytest.fixture
def opened(tmp_path: Path, redis_url: str, store_server: StoreServer, store_database: str) -> Open:
    """Opens the bench of this test: `opened(*faults, consumer setting=…)`. It fails over and retries fast."""

    def open_bench(*faults: Fault, **consumer: float) -> AbstractAsyncContextManager[Bench]:
        quick = {"retry_delay": 0.01, "max_retries": 3, "lease_timeout": 1.0} | consumer
        settings = make_settings(tmp_path, redis_url, store_server, store_database, consumer=quick)
        return bench(settings, faults)

    return open_bench


async def assert_stored(made: Bench, count: int, seconds: float = 15) -> None:
    """Everything is acknowledged, and each of `count` events is in the store exactly once."""
    await async_until(made.is_empty, seconds, "an empty stream")
    assert await made.store.stored() == (count, count)
    assert (await ledger(made.redis, made.keys)).get("stored", 0) == count
    await assert_conserved(made.redis, made.keys)


async def hang(real: Real) -> None:
    await asyncio.Event().wait()


async def insert_then_hang(real: Real) -> None:
    await real()
    await asyncio.Event().wait()


async def has_inserted(made: Bench, inserts: int) -> bool:
    return made.store.inserts > inserts


async def lose_answer(real: Callable[[], Awaitable[None]]) -> None:
    """The insert is executed; its answer never arrives."""
    await real()
    raise StoreUnavailable("lost")


async def lose_request(real: Callable[[], Awaitable[None]]) -> None:
    raise StoreUnavailable("lost")


async def refuse(real: Callable[[], Awaitable[None]], code: int = 241) -> None:
    raise StoreRefused(code, "simulated")


def refusing(code: int) -> Fault:
    return lambda real: refuse(real, code)


class Work:
    """One batch under a lease, its plan saved, as the drain does it."""

    def __init__(self, made: Bench, items: Items, plan: Plan, inserter: Inserter) -> None:
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
    entries, rows = await partition.read(None, 100, 2**30), Rows()
    items = Items(item for entry in entries for item in read_items(entry, Geography(""), rows))
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
