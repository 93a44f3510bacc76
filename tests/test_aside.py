"""Work beside the event loop: no project's waits for more than one piece of another's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app import aside as module
from app.aside import THREADS, aside
from app.errors import ApiError, Kind

DEADLINE = 20.0


class Slow:
    """Work that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, name: str) -> str:
        self.begun.append(name)
        assert self.go_on.wait(DEADLINE)
        return name


def test_a_project_that_has_much_to_be_written_keeps_no_other_waiting() -> None:
    async def run() -> None:
        slow = Slow()
        heavy = [asyncio.create_task(aside("heavy", slow, "heavy")) for _ in range(6)]
        while not slow.begun:  # noqa: ASYNC110  (within the deadline below)
            await asyncio.sleep(0.001)
        assert await aside("light", str, 3) == "3"
        assert slow.begun == ["heavy"], "one at a time"
        slow.go_on.set()
        assert await asyncio.gather(*heavy) == ["heavy"] * 6

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def test_who_had_none_is_next_however_many_wait() -> None:
    async def run() -> None:
        slow = Slow()
        order: list[str] = []
        heavy = [asyncio.create_task(aside(f"heavy {n}", slow, "")) for n in range(THREADS)]
        while len(slow.begun) < THREADS:  # noqa: ASYNC110  (within the deadline below)
            await asyncio.sleep(0.001)
        more = [
            asyncio.create_task(aside(f"heavy {n}", order.append, "heavy"))
            for n in range(THREADS)
            for _ in "abc"
        ]
        await asyncio.sleep(0)
        light = asyncio.create_task(aside("light", order.append, "light"))
        await asyncio.sleep(0)
        slow.go_on.set()
        await asyncio.gather(*heavy, *more, light)
        assert order.index("light") < THREADS

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def test_who_leaves_frees_no_thread_that_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._turns, "_timeout_seconds", 0.05)

    async def run() -> None:
        slow = Slow()
        gone = asyncio.create_task(aside("p", slow, "p"))
        while not slow.begun:  # noqa: ASYNC110  (within the deadline below)
            await asyncio.sleep(0.001)
        gone.cancel()
        with pytest.raises(ApiError) as refused:
            await aside("p", str, 3)
        assert refused.value.kind is Kind.UNAVAILABLE
        slow.go_on.set()
        monkeypatch.setattr(module._turns, "_timeout_seconds", DEADLINE)
        assert await aside("p", str, 3) == "3"

    asyncio.run(asyncio.wait_for(run(), DEADLINE))
