"""What is done beside the draining: nothing that happens there ends it."""

from __future__ import annotations

import asyncio

import pytest

from app.store import StoreRefused, StoreUnavailable
from workers.chores import repeat
from workers.plan import Halted


def test_whatever_happens_it_is_done_again_until_it_stops(capsys: pytest.CaptureFixture[str]) -> None:
    happens = [
        *(StoreUnavailable("away"), StoreRefused(27, "parsed text: 'a secret'"), ConnectionResetError()),
        *(Halted("a plan of another version"), ValueError("a bug"), None),
    ]
    done = 0

    async def run() -> None:
        stop = asyncio.Event()

        async def work() -> None:
            nonlocal done
            done += 1
            if (error := happens[done - 1]) is not None:
                raise error
            stop.set()

        async with asyncio.timeout(20):
            await repeat(stop, "cleaning", work, 0.001)

    asyncio.run(run())
    assert done == len(happens)
    said = capsys.readouterr().out.splitlines()
    postponed = [line for line in said if "chore postponed" in line and "cleaning" in line]
    assert len(postponed) == 4
    assert not any("a secret" in line for line in postponed)
    assert sum("chore failed" in line and "cleaning" in line for line in said) == 1


def test_a_stop_does_not_wait_for_the_next_time() -> None:
    async def run() -> None:
        stop = asyncio.Event()

        async def work() -> None:
            asyncio.get_running_loop().call_later(0.01, stop.set)

        async with asyncio.timeout(20):
            await repeat(stop, "cleaning", work, 600.0)

    asyncio.run(run())
