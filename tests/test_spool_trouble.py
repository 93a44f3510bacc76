"""A spool that cannot be opened, or not at once: what waits in it is replayed nevertheless."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import redis_client, spool_segment
from app.spool import Spool, _Write
from app.spool_segment import Segment
from app.spool_slot import Slot, disk_id, take_free
from tests.append_edge import Edge, own_redis, spooling_edge
from tests.pipeline_kit import make_settings
from tests.redis_fixture import RedisServer
from tests.test_spool_disk import frame, keep, opened, read_all
from tests.waiting import async_until

__all__ = ["own_redis"]

QUICK = {"redis_timeout": 0.2}
Load = Callable[..., list[Segment]]


def failing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next reading of a slot fails, as with a disk that has no room for the bytes to be set aside."""
    real: Load = spool_segment.load

    def fail(*_: object) -> list[Segment]:
        monkeypatch.setattr(spool_segment, "load", real)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool_segment, "load", fail)


async def leave_groups(tmp_path: Path, own_redis: RedisServer, number: int) -> None:
    """A life that ends with groups in its spool; Redis is back afterwards."""
    own_redis.kill()
    async with spooling_edge(make_settings(tmp_path, own_redis.url, spool=QUICK), replays=False) as made:
        for one in range(number):
            await made.append(one)
    await asyncio.to_thread(own_redis.start)


def test_a_spool_that_fills_its_disk_is_emptied(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: room for new segments is no condition of replaying the old ones, which is what makes room."""
    monkeypatch.setattr("app.replay.REOPEN_SECONDS", 0.05)
    real = Slot.create

    def create(self: Slot, segment_bytes: int) -> tuple[Path, int]:
        if self.segments():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, segment_bytes)

    async def run() -> None:
        await leave_groups(tmp_path, own_redis, 5)
        monkeypatch.setattr(Slot, "create", create)
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        redis = redis_client.connect(settings)
        made = Edge(settings, redis)
        assert not await made.replayer.open()
        task = asyncio.create_task(made.replayer.run())
        try:
            await async_until(made.is_replayed, 5)
            await made.append(5)
            assert await made.numbers() == list(range(6))

            async def is_open() -> bool:
                return made.spool.is_open and not made.spool.problem

            await async_until(is_open, 5)
        finally:
            await redis_client.stop_tasks(task)
            await made.appender.close()
            await made.replayer.close()
            await redis.aclose()

    asyncio.run(run())


def test_what_could_not_be_read_at_first_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: opening again after an error begins where it failed."""

    async def run() -> None:
        async with opened(tmp_path) as spool:
            await keep(spool, frame(1))
        spool = Spool(lambda: take_free(tmp_path), 2**26)
        failing_once(monkeypatch)
        with pytest.raises(OSError, match="No space"):
            await spool.open()
        await spool.open()
        assert await read_all(spool) == [1]
        await spool.close(5)

    asyncio.run(run())


def test_an_orphan_that_cannot_be_read_now_is_let_go(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: a lock that nobody gives back would hide the orphan from everybody else."""
    monkeypatch.setattr("app.replay.ADOPT_SECONDS", 0.05)
    monkeypatch.setattr("app.replay.REOPEN_SECONDS", 0.05)

    async def run() -> None:
        await leave_groups(tmp_path, own_redis, 3)
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        (settings.spool_path / "slot-0").rename(settings.spool_path / "slot-7")
        async with spooling_edge(settings) as made:
            failing_once(monkeypatch)

            async def are_there() -> bool:
                return await made.numbers() == [0, 1, 2]

            await async_until(are_there, 5)

    asyncio.run(run())


def test_a_group_that_is_written_while_the_last_one_is_done_still_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: groups are counted in the loop. One that is not counted is overtaken, and then lost.

    The disk's thread finishes in the very moment at which the loop has seen that nothing more was written.
    """
    is_armed, may_write, was_written = threading.Event(), threading.Event(), threading.Event()
    real_write = Spool._write

    def write(self: Spool, writes: list[_Write]) -> object:
        if is_armed.is_set():
            may_write.wait(5)
        try:
            return real_write(self, writes)
        finally:
            was_written.set()

    def look(self: Segment) -> int:
        end: int = self.__dict__["end"]
        if is_armed.is_set() and threading.current_thread() is threading.main_thread():
            was_written.clear()
            may_write.set()
            was_written.wait(5)
        return end

    async def run() -> None:
        async with opened(tmp_path) as spool:
            await keep(spool, frame(1))
            assert len(await spool.peek()) == 1
            is_armed.set()
            late = asyncio.create_task(keep(spool, frame(2)))
            await asyncio.sleep(0.05)
            monkeypatch.setattr(
                Segment,
                "end",
                property(look, lambda self, value: self.__dict__.update(end=value)),
                raising=False,
            )
            await spool.done()
            is_armed.clear()
            monkeypatch.undo()
            await late
            assert spool.has(0), "the next group must go behind it"
            assert await read_all(spool) == [2]
            assert not spool.has(0)

    monkeypatch.setattr(Spool, "_write", write)
    asyncio.run(run())


def test_what_others_left_is_told_of_while_redis_takes_nothing(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: an erasure waits for it (`workers.erase_proof`); that it cannot be replayed now is no reason to
    say that it is not there."""
    monkeypatch.setattr("app.replay.ADOPT_SECONDS", 0.05)

    async def run() -> None:
        await leave_groups(tmp_path, own_redis, 3)
        settings = make_settings(tmp_path, own_redis.url, spool=QUICK)
        orphan, hidden = settings.spool_path / "slot-7", tmp_path / "elsewhere"
        (settings.spool_path / "slot-0").rename(hidden)
        async with spooling_edge(settings) as made:

            async def is_told(groups: int) -> bool:
                return made.replayer.waiting() == groups

            await async_until(lambda: is_told(0), 5)
            made.pressure.reason = "Redis is full"
            hidden.rename(orphan)
            await async_until(lambda: is_told(1), 5)
            assert await made.numbers() == []
            made.pressure.reason = ""
            await async_until(lambda: is_told(0), 5)
            assert await made.numbers() == [0, 1, 2]

    asyncio.run(run())


def test_a_disk_is_known_wherever_it_is_mounted_and_a_copy_is_another(tmp_path: Path) -> None:
    spool = tmp_path / "one" / "spool"
    with ThreadPoolExecutor(8) as pool:
        [name] = set(pool.map(disk_id, [spool] * 50))
    assert [path.name for path in spool.iterdir()] == ["disk"]
    moved = spool.rename(tmp_path / "spool")
    assert disk_id(moved) == name
    shutil.copytree(moved, tmp_path / "copy")
    assert disk_id(tmp_path / "copy") != name
