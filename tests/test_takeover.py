"""Kill the drain at any line, or let it oversleep: the next owner stores every event once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from app.partition import LeaseLost, Partition
from tests.pipeline_kit import (
    LEASE_MS,
    Bench,
    Fault,
    record,
)
from tests.pipeline_steps import (
    Open,
    Real,
    assert_stored,
    hang,
    insert_then_hang,
    opened,
    start,
)
from tests.store_fixture import ROOT, StoreServer
from tests.waiting import async_until

__all__ = ["opened"]

RUNNING: list[asyncio.Future[None]] = []


async def leave_running(real: Real) -> None:
    """The insert goes on in the server although its drain is gone."""
    task = asyncio.ensure_future(real())
    RUNNING.append(task)
    await asyncio.Event().wait()


async def crash_at(made: Bench, fault: Fault) -> None:
    """Run a drain until it has reached `fault`, and kill it there."""
    reached = asyncio.Event()

    async def tell(real: Real) -> None:
        async def and_tell() -> None:
            await real()
            reached.set()

        if fault is not insert_then_hang:
            reached.set()
        await fault(and_tell)

    made.store.faults = [tell]
    async with made.draining("a"):
        await asyncio.wait_for(reached.wait(), 10)


Acknowledge = Callable[[Partition, str, Mapping[str, int], Sequence[tuple[str, bytes]]], Awaitable[None]]


def stop_around(real: Acknowledge, reached: asyncio.Event, *, is_done: bool) -> Acknowledge:
    """An acknowledgement that never returns, having done its work or not."""

    async def stuck(
        self: Partition, last: str, changes: Mapping[str, int], dead: Sequence[tuple[str, bytes]]
    ) -> None:
        if is_done:
            await real(self, last, changes, dead)
        reached.set()
        await asyncio.Event().wait()

    return stuck


@pytest.mark.parametrize("slot", ["a", "b"])
@pytest.mark.parametrize(
    "fault",
    [hang, leave_running, insert_then_hang],
    ids=["after the plan", "during the insert", "before the acknowledgement"],
)
def test_a_crash_is_taken_over(opened: Open, fault: Fault, slot: str) -> None:
    """Safeguards: the plan is written first; the next owner (same slot or another) settles it by counting."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(300)])
            await crash_at(made, fault)
            assert await made.redis.exists(made.keys.plan)
            await made.put([record() for _ in range(50)])
            async with made.draining(slot):
                await assert_stored(made, 350)
            await asyncio.gather(*RUNNING)
            RUNNING.clear()
            assert await made.store.stored() == (350, 350)

    asyncio.run(run())


def test_a_crash_of_the_owner_that_recovers(opened: Open) -> None:
    """Safeguard: recovery itself may be killed at any line, again and again."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(100)])
            for fault in (hang, insert_then_hang, hang, insert_then_hang):
                await crash_at(made, fault)
            async with made.draining("a"):
                await assert_stored(made, 100)

    asyncio.run(run())


def test_a_crash_just_before_or_after_the_acknowledgement(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: acknowledging is one script; before it all is settled anew, after it nothing is left."""

    async def run() -> None:
        async with opened() as made:
            real = Partition.acknowledge
            for is_done in (False, True):
                reached = asyncio.Event()
                stuck = stop_around(real, reached, is_done=is_done)
                await made.put([record() for _ in range(100)])
                monkeypatch.setattr(Partition, "acknowledge", stuck)
                async with made.draining("a"):
                    await asyncio.wait_for(reached.wait(), 10)
                monkeypatch.setattr(Partition, "acknowledge", real)
                async with made.draining("a"):
                    await assert_stored(made, 200 if is_done else 100)

    asyncio.run(run())


def test_a_zombie_with_an_insert_in_hand_adds_nothing(opened: Open) -> None:
    """Safeguards: the plan's token sent again by the new owner; the epoch in every script of the old one."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(200)])
            wake, asleep = asyncio.Event(), asyncio.Event()

            async def sleep_before(real: Real) -> None:
                asleep.set()
                await wake.wait()
                await real()

            made.store.faults = [sleep_before]
            zombie = made.drain("zombie")
            # Without its renewer: the whole process stands still.
            assert await zombie._partition.acquire(300)
            task = asyncio.create_task(zombie._batch())
            await asyncio.wait_for(asleep.wait(), 5)
            async with made.draining("b"):
                await assert_stored(made, 200)
                before = await made.redis.hgetall(made.keys.ledger)
                wake.set()
                with pytest.raises(LeaseLost):
                    await asyncio.wait_for(task, 5)
                assert await made.redis.hgetall(made.keys.ledger) == before
                await made.put([record()])
                await assert_stored(made, 201)

    asyncio.run(run())


def test_no_insert_leaves_without_the_lease(opened: Open) -> None:
    """Safeguard: the fence before each insert, for one that paused between its plan and its insert."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [record()])
            assert await made.partition("a").acquire(LEASE_MS)
            for resumed in (False, True):
                with pytest.raises(LeaseLost):
                    await work.carry_out(resumed=resumed)
            assert made.store.inserts == 0

    asyncio.run(run())


def test_an_owner_whose_lease_is_gone_stops_its_loop(opened: Open) -> None:
    """Safeguard: the renewer ends the loop; a drain never goes on inserting without the lease."""

    async def run() -> None:
        async with opened(hang) as made:
            await made.put([record()])
            async with made.draining("a"):
                await async_until(lambda: made.redis.exists(made.keys.plan), 5)
                await made.redis.delete(made.keys.lease)
                await assert_stored(made, 1)
                assert int(await made.redis.get(made.keys.epoch) or 0) >= 2

    asyncio.run(run())


def test_two_drains_of_which_one_is_killed(opened: Open) -> None:
    """Safeguard: one owner at a time, and another within the lease's time plus a second."""

    async def run() -> None:
        async with opened() as made, contextlib.AsyncExitStack() as stack:
            second = await stack.enter_async_context(made.draining("b"))
            await async_until(lambda: made.redis.exists(made.keys.lease), 5)
            await stack.enter_async_context(made.draining("c"))
            for _ in range(20):
                await made.put([record() for _ in range(10)])
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            killed = time.monotonic()

            async def is_taken_over() -> bool:
                return await made.redis.get(made.keys.epoch) == b"2"

            await async_until(is_taken_over, 10)
            assert time.monotonic() - killed < made.settings.consumer.lease_timeout + 1
            for _ in range(20):
                await made.put([record() for _ in range(10)])
            await assert_stored(made, 400)

    asyncio.run(run())


# A drain process that kills itself around its n-th insert: before it, or after it and before the acknowledgement.
SUICIDAL = """
import os, signal, sys
from app.store import Store
real, state = Store.insert, {"n": 0}
number, when = int(sys.argv[1]), sys.argv[2]
async def insert(self, *args, **kwargs):
    state["n"] += 1
    if state["n"] == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    await real(self, *args, **kwargs)
    if state["n"] == number:
        os.kill(os.getpid(), signal.SIGKILL)
Store.insert = insert
sys.argv[:] = ["eventbunker", "-c", sys.argv[3], "drain"]
from workers.cli import main
main()
"""


@pytest.fixture
def drain_process(
    tmp_path: Path, redis_url: str, store_server: StoreServer, store_database: str
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts real `eventbunker drain` processes of this test."""
    config = tmp_path / "real.toml"
    database = f'[[stores]]\nbinding = "WAREHOUSE"\nengine = "embedded"\ndatabase = "{store_database}"\n'
    config.write_text(database)
    environ = {
        **os.environ,
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": store_server.url,
        "CLICKHOUSE_PASSWORD": store_server.token,
        "DRAIN_SLOT": "test",
    }
    started = []

    def start(number: int = 0, when: str = "before") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SUICIDAL, str(number), when, str(config)]
        with (tmp_path / "drain.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_kill_9_of_a_real_drain_and_a_graceful_stop(
    opened: Open, drain_process: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """The same with a real process: killed before an insert, killed after one, then stopped by SIGTERM."""

    async def run() -> None:
        async with opened() as made:
            for number, when in ((1, "before"), (1, "after"), (2, "after")):
                await made.put([record() for _ in range(100)])
                process = drain_process(number, when)
                await asyncio.to_thread(process.wait, 20)
                assert process.returncode == -signal.SIGKILL, (tmp_path / "drain.log").read_text()
            process = drain_process()
            await assert_stored(made, 300)
            await made.put([record() for _ in range(100)])
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0, (tmp_path / "drain.log").read_text()
            assert not await made.redis.exists(made.keys.lease)
            await assert_stored(made, 400)

    asyncio.run(run())
