"""The spool's own disk: torn writes, damage, a full disk, a slow one. What was answered is found again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import spool_format
from app.spool import Spool, SpoolFull
from app.spool_format import SEGMENT_HEAD, Damage, Frame
from app.spool_segment import SEGMENT_BYTES, Segment
from app.spool_slot import take_free

FRAMES = st.builds(
    Frame,
    incarnation=st.binary(min_size=12, max_size=12).map(bytes.hex),
    partition=st.integers(0, 255),
    sequence=st.integers(1, 2**40),
    records=st.integers(1, 1000),
    spooled_at=st.integers(0, 2**41),
    counts=st.binary(max_size=50),
    # Payloads that hold what begins a frame, so that looking for the next one is put to the test.
    payload=st.one_of(st.binary(max_size=200), st.just(b"EBgp" * 20), st.just(spool_format.FRAME_MAGIC)),
)


def frame(number: int, payload: bytes = b"payload", partition: int = 0) -> Frame:
    return Frame("ab" * 12, partition, number, 1, 1, b"prj|1=1", payload)


def reserve(spool: Spool, one: Frame) -> None:
    assert spool.reserve(spool_format.encoded_bytes(len(one.counts), len(one.payload)))


async def keep(spool: Spool, one: Frame) -> None:
    reserve(spool, one)
    await spool.write(one)


async def read_all(spool: Spool) -> list[int]:
    """The sequences of everything that is replayed."""
    found: list[int] = []
    while frames := await spool.peek():
        found += [one.sequence for one in frames]
        await spool.done()
    return found


@contextlib.asynccontextmanager
async def opened(directory: Path, max_bytes: int = 4 * SEGMENT_BYTES) -> AsyncIterator[Spool]:
    spool = Spool(lambda: take_free(directory), max_bytes)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close(5)


@given(st.lists(FRAMES, max_size=8), st.integers(0, 100))
def test_what_is_written_is_read(frames: list[Frame], zeros: int) -> None:
    content = SEGMENT_HEAD + b"".join(map(spool_format.encode, frames)) + b"\0" * zeros
    assert [item for item, _ in spool_format.read(content)] == frames


@given(st.lists(FRAMES, min_size=1, max_size=6), st.data())
def test_a_cut_loses_only_what_it_cuts(frames: list[Frame], data: st.DataObject) -> None:
    """Safeguard: a torn write is told from a whole frame, wherever it was torn."""
    encoded = [spool_format.encode(one) for one in frames]
    content = SEGMENT_HEAD + b"".join(encoded)
    cut = data.draw(st.integers(len(SEGMENT_HEAD), len(content)))
    whole, end = 0, len(SEGMENT_HEAD)
    while whole < len(frames) and end + len(encoded[whole]) <= cut:
        end += len(encoded[whole])
        whole += 1
    found = [item for item, _ in spool_format.read(content[:cut] + b"\0" * 64)]
    assert found[:whole] == frames[:whole]
    # (A frame that ends in zeros is whole again when zeros take their place.)
    assert all(item == frames[whole] or (isinstance(item, Damage) and item.is_tail) for item in found[whole:])


@settings(max_examples=200)
@given(st.lists(FRAMES, min_size=1, max_size=6), st.data())
def test_damage_takes_one_frame_and_no_other(frames: list[Frame], data: st.DataObject) -> None:
    """Safeguard: the checksum covers every byte; reading goes on behind what is damaged."""
    encoded = [spool_format.encode(one) for one in frames]
    victim = data.draw(st.integers(0, len(frames) - 1))
    where = data.draw(st.integers(0, len(encoded[victim]) - 1))
    flipped = bytearray(encoded[victim])
    flipped[where] ^= 1 << data.draw(st.integers(0, 7))
    content = SEGMENT_HEAD + b"".join([*encoded[:victim], bytes(flipped), *encoded[victim + 1 :]])
    found = [item for item, _ in spool_format.read(content)]
    assert [item for item in found if isinstance(item, Frame)] == frames[:victim] + frames[victim + 1 :]
    assert any(isinstance(item, Damage) for item in found)


def test_damage_on_disk_is_set_aside_and_the_rest_replayed(tmp_path: Path) -> None:
    """Safeguard: unreadable bytes are kept for a person to look at, once, and never stop the replay."""

    async def run() -> None:
        async with opened(tmp_path) as spool:
            for number in range(1, 101):
                await keep(spool, frame(number))
        (path,) = (tmp_path / "slot-0").glob("*.segment")
        content = bytearray(path.read_bytes())
        size = len(spool_format.encode(frame(1)))
        content[len(SEGMENT_HEAD) + 49 * size + 60] ^= 0xFF
        path.write_bytes(bytes(content[: len(SEGMENT_HEAD) + 99 * size + 20]))  # and the last one is torn
        for _ in range(2):  # a crash after the first look changes nothing
            async with opened(tmp_path) as spool:
                assert spool.groups == 98
        damaged = path.with_suffix(".damaged").read_bytes()
        assert size < len(damaged) <= size + 20  # zeros at its end are not told from room
        async with opened(tmp_path) as spool:
            assert await read_all(spool) == [n for n in range(1, 100) if n != 50]
            assert spool.groups == 0

    asyncio.run(run())


def test_damage_while_it_waits_does_not_stop_the_replay(tmp_path: Path) -> None:
    """Safeguard: the count of what waits ends at zero, or the edge would spool for ever."""

    async def run() -> None:
        async with opened(tmp_path) as spool:
            for number in range(1, 11):
                await keep(spool, frame(number))
            (path,) = (tmp_path / "slot-0").glob("*.segment")
            with path.open("r+b") as file:
                file.seek(len(SEGMENT_HEAD) + 50)
                file.write(b"?")
            assert await read_all(spool) == list(range(2, 11))
            assert not spool.has(0)
            await keep(spool, frame(11))
            assert await read_all(spool) == [11]

    asyncio.run(run())


def test_many_partitions_and_many_segments_in_order(tmp_path: Path) -> None:
    """First in, first out over segments; each is freed as soon as it is replayed."""

    async def run() -> None:
        async with opened(tmp_path, 8 * SEGMENT_BYTES) as spool:
            order = random.Random(3)
            number = 0
            for _ in range(30):
                some = [frame(number + n, os.urandom(400_000), order.randrange(5)) for n in range(3)]
                number += 3
                await asyncio.gather(*(keep(spool, one) for one in some))
            assert spool.size_bytes > 3 * SEGMENT_BYTES
            assert await read_all(spool) == list(range(90))
            assert spool.size_bytes == SEGMENT_BYTES
            assert len(list((tmp_path / "slot-0").glob("*.segment"))) == 1

    asyncio.run(run())


def test_an_event_that_waits_is_found(tmp_path: Path) -> None:
    """For receipts: the request id's own time narrows the search, and what was replayed is gone."""

    async def run() -> None:
        import time

        async with opened(tmp_path) as spool:
            moment = time.time_ns() // 1_000_000
            ids = [moment.to_bytes(6, "big") + os.urandom(6) for _ in range(3)]
            for number, one in enumerate(ids[:2]):
                await keep(spool, frame(number, b"before" + one + b"after"))
            assert [await spool.find(one) for one in ids] == [
                *([b"before" + one + b"after"] for one in ids[:2]),
                [],
            ]
            await read_all(spool)
            assert [await spool.find(one) for one in ids] == [[], [], []]

    asyncio.run(run())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_refuses_keeps_and_recovers(small_disk: Path) -> None:
    """Safeguards: room that was allocated stays ours; a refused frame is not found later; it goes on after."""

    async def run() -> None:
        spools = small_disk / "spool"
        async with opened(spools, 100 * SEGMENT_BYTES) as spool:
            (small_disk / "ballast").write_bytes(b"x" * (24 * 2**20 - SEGMENT_BYTES - 2**18))
            kept: list[int] = []
            refused = 0
            for number in range(40):
                one = frame(number, os.urandom(300_000))
                reserve(spool, one)
                try:
                    await spool.write(one)
                    kept.append(number)
                except SpoolFull:
                    refused += 1
            assert len(kept) >= 25, "the open segment's room was promised"
            assert refused
            assert spool.problem
            (small_disk / "ballast").unlink()
            one = frame(1000)
            await keep(spool, one)
            assert not spool.problem
            assert await read_all(spool) == [*kept, 1000]
        async with opened(spools) as spool:
            assert spool.groups == 0

    asyncio.run(run())


def test_a_disk_that_has_room_again_is_noticed_without_a_write(small_disk: Path) -> None:
    """Redis is well again, so nothing has to be spooled; `/readyz?strict` must not stay degraded."""

    async def run() -> None:
        async with opened(small_disk / "spool", 100 * SEGMENT_BYTES) as spool:
            (small_disk / "ballast").write_bytes(b"x" * (24 * 2**20 - SEGMENT_BYTES - 2**18))
            while not spool.problem:
                one = frame(1, os.urandom(300_000))
                reserve(spool, one)
                with contextlib.suppress(SpoolFull):
                    await spool.write(one)
            await spool.look_after()
            assert spool.problem, "what waits is replayed first"
            (small_disk / "more").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * 4096)
            await read_all(spool)
            with contextlib.suppress(OSError):
                await spool.look_after()
            (small_disk / "ballast").unlink()
            await spool.look_after()
            assert not spool.problem

    asyncio.run(run())


def test_a_slow_disk_holds_up_only_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: syncing happens in a thread, and whoever comes meanwhile shares the next sync."""

    async def run() -> None:
        gate = threading.Event()
        syncs = 0
        real = Segment.append

        def slow(self: Segment, frames: list[bytes]) -> None:
            nonlocal syncs
            syncs += 1
            gate.wait(10)
            real(self, frames)

        monkeypatch.setattr(Segment, "append", slow)
        async with opened(tmp_path) as spool:
            tasks = [asyncio.create_task(keep(spool, frame(number))) for number in range(50)]
            await asyncio.wait(tasks, timeout=0.05)
            assert not any(task.done() for task in tasks), "kept means synced"
            gate.set()
            await asyncio.gather(*tasks)
            assert syncs <= 2
            assert await read_all(spool) == list(range(50))

    asyncio.run(run())
