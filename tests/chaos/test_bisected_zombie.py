"""A drain is paused in the middle of bisecting: the half that it has in hand must not double what others stored."""

from __future__ import annotations

import asyncio

import pytest

from app.partition import LeaseLost
from tests.pipeline_kit import record
from tests.pipeline_steps import Open, Real, assert_stored, opened, refusing
from tests.waiting import async_until

__all__ = ["opened"]

LEASE_MS = 2000  # long enough for two inserts on a busy machine; then it ends, since nobody renews it
BAD_DATA = 53


def test_a_paused_half_is_known_to_the_next_owner(opened: Open) -> None:
    """Safeguard: halves replace the plan before they are inserted, so the next owner sends their very tokens.

    With the old plan it would store the whole under another token, and the late half would come on top.
    """

    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(100)])
            wake, asleep, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

            async def sleep_before(real: Real) -> None:
                asleep.set()
                await wake.wait()
                await real()
                done.set()

            made.store.faults = [refusing(BAD_DATA), sleep_before]
            zombie = made.drain("zombie")
            assert await zombie._partition.acquire(LEASE_MS)
            task = asyncio.create_task(zombie._batch())
            await asyncio.wait_for(asleep.wait(), 5)
            async with made.draining("b"):
                await async_until(made.is_empty, 15, "an empty stream")
                wake.set()
                with pytest.raises(LeaseLost):
                    await asyncio.wait_for(task, 5)
                assert done.is_set()
                await assert_stored(made, 100)

    asyncio.run(run())
