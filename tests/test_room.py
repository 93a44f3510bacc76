"""What all batches under way in one process hold together: bounded, by what came and not by what was announced."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from pathlib import Path
from typing import cast

import pytest
from starlette.types import Message, Receive, Scope

from app.append import Appender
from app.batch import Batch
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.names import KnownNames
from app.rate_limit import RateLimits
from app.registry import Registry
from app.room import Room
from app.settings import load
from tests.packers import PACKERS

MIB = 1024 * 1024
EVENT = b'{"event_name":"e"}'
PADDED = b"[" + EVENT + b" " * (MIB - 32) + b"]"


class _Known:
    """A registry that knows one key and one name."""

    names: _Known
    _grant = Grant(KeyType.WRITE, "key", "acc_test", "prj_test")

    def __init__(self) -> None:
        self.names = self

    def cached(self, _secret: str, _kind: KeyType) -> Grant:
        return self._grant

    def known(self, _project_id: str) -> KnownNames:
        return KnownNames({"e"}, set())

    def touch(self, *_use: object) -> None:
        pass


class _Kept:
    """An appender that keeps everything, a turn of the loop later."""

    async def append(self, _request: bytes, _bucket: str, _events: int) -> str:
        await asyncio.sleep(0)
        return "1-0"


def make_batch(directory: Path) -> Batch:
    """The endpoint, with room for 3 MiB."""
    path = directory / "deploy.toml"
    path.write_text(f"[limits]\nmax_batch_bytes = {MIB}\nmax_pending_bytes = {2 * MIB}\n")
    settings = load(path, environ={"REDIS_URL": "unix:///nowhere.sock"})
    appenders = cast("list[Appender]", [_Kept()])
    return Batch(cast("Registry", _Known()), appenders, RateLimits(), settings)


def post(batch: Batch, receive: Receive, length: int | None, coding: str = "") -> asyncio.Task[int]:
    """A request under way; the result is its status."""
    headers = [(b"x-eventbunker-write-key", b"k"), (b"content-encoding", coding.encode())]
    headers.append(
        (b"transfer-encoding", b"chunked") if length is None else (b"content-length", b"%d" % length)
    )
    scope: Scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/batch", "query_string": b""},
        **{"headers": headers, "eventbunker.request_id": "0" * 24, "client": None},
    }
    status = 0

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    async def run() -> int:
        await batch(scope, receive, send)
        return status

    return asyncio.create_task(run())


def arriving(*pieces: bytes, stalls: bool = False) -> Receive:
    """A body that arrives piece by piece; one that stalls never ends."""
    left = list(pieces)

    async def receive() -> Message:
        await asyncio.sleep(0)
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or stalls}

    return receive


@pytest.mark.parametrize("name", PACKERS)
def test_what_batches_inflate_to_is_bounded_together(tmp_path: Path, name: str) -> None:
    """Safeguard: `inflate` lets others run, so all of them inflate at once; some kilobytes each are announced."""
    coding, pack = PACKERS[name]
    packed = pack(PADDED)
    assert len(packed) < 5000

    async def run() -> tuple[list[int], int]:
        batch = make_batch(tmp_path)
        tracemalloc.start()
        try:
            tasks = [post(batch, arriving(packed), len(packed), coding) for _ in range(60)]
            statuses = await asyncio.gather(*tasks)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert await post(batch, arriving(packed), len(packed), coding) == 200
        assert batch._room.left == 3 * MIB
        return statuses, peak

    statuses, peak = asyncio.run(run())
    assert set(statuses) == {200, 503}
    assert peak < 12 * MIB  # the room, and what one of them copies at a time; without it 60


@pytest.mark.parametrize("length", [MIB, None], ids=["announced", "chunked"])
def test_who_sends_slowly_holds_what_was_sent(tmp_path: Path, length: int | None) -> None:
    async def run() -> None:
        batch = make_batch(tmp_path)
        slow = [post(batch, arriving(b"[" * 100, stalls=True), length) for _ in range(100)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert batch._room.left == 3 * MIB - 100 * 100
        assert await post(batch, arriving(EVENT), len(EVENT)) == 200
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert batch._room.left == 3 * MIB

    asyncio.run(run())


def test_pieces_are_refused_when_there_is_no_room_and_not_kept(tmp_path: Path) -> None:
    """Those that were read are let go at once, also where the rest is read away first."""

    async def run() -> None:
        batch = make_batch(tmp_path)
        tracemalloc.start()
        try:
            with batch._room.share() as others:
                others.grow(2 * MIB + MIB // 2)
                pieces = [b"x" * 200_000 for _ in range(3)]
                refused = post(batch, arriving(*pieces, stalls=True), None)
                pieces.clear()
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not refused.done()  # it reads away what still comes
                assert batch._room.left == MIB // 2
                assert tracemalloc.get_traced_memory()[0] < 300_000
                refused.cancel()
                await asyncio.gather(refused, return_exceptions=True)
                assert await post(batch, arriving(b"[" * 600_000), 600_000) == 503
        finally:
            tracemalloc.stop()
        assert batch._room.left == 3 * MIB

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (EVENT, "", 200), (b"[]", "", 400), (b"{", "", 400), (gzip.compress(EVENT, mtime=0)[:-3], "gzip", 400), (EVENT, "br", 415),
        (b" " * (MIB + 1), "", 413), (gzip.compress(b" " * (MIB + 1)), "gzip", 413), (gzip.compress(PADDED), "gzip", 200),
    ],
)  # fmt: skip
def test_room_is_given_back_however_it_ends(tmp_path: Path, body: bytes, coding: str, status: int) -> None:
    async def run() -> None:
        batch = make_batch(tmp_path)
        assert await post(batch, arriving(body[:100], body[100:]), len(body), coding) == status
        assert await post(batch, arriving(body), None, coding) == status
        assert batch._room.left == 3 * MIB

    asyncio.run(run())


def test_a_share_that_finds_no_room_keeps_what_it_has() -> None:
    room = Room(100)
    with room.share() as one, room.share() as other:
        one.grow(60)
        with pytest.raises(ApiError) as refused:
            other.grow(41)
        assert refused.value.kind is Kind.UNAVAILABLE
        assert room.left == 40
        one.hold(10)
        other.grow(90)
        assert room.left == 0
    assert room.left == 100
