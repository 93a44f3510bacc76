"""Compressed bodies: what was packed comes out, and what is damaged or too large is refused in bounds."""

from __future__ import annotations

import asyncio
import os
import tracemalloc

import pytest

from app import inflate as module
from app.errors import ApiError, Kind
from app.inflate import MAX_MEMBERS, PIECE_BYTES, inflate
from tests.packers import PACKERS, bomb, pack_with_window

BODY = b'{"event_name":"packed"}'
LIMIT = 4 * 1024 * 1024
NAMES = list(PACKERS)


def unpack(name: str, packed: bytes, limit: int = LIMIT) -> bytes:
    return asyncio.run(inflate(PACKERS[name][0], packed, limit))


def refused(name: str, packed: bytes, limit: int = LIMIT) -> tuple[Kind, str]:
    with pytest.raises(ApiError) as caught:
        unpack(name, packed, limit)
    return caught.value.kind, caught.value.detail


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body", [BODY, b"", b"x", os.urandom(300_000), b"abc" * 400_000, os.urandom(70_000) * 40], ids=len
)
def test_what_was_packed_comes_out(name: str, body: bytes) -> None:
    assert unpack(name, PACKERS[name][1](body)) == body


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_sizes_around_pieces(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: the end may be inside the inflater when the last byte is read and a piece is full."""
    monkeypatch.setattr(module, "PIECE_BYTES", piece)
    noise = os.urandom(200)
    for size in range(200):
        for body in (b"a" * size, noise[:size], (b"a" * 50 + noise[:14]) * 3 + b"a" * size):
            assert unpack(name, PACKERS[name][1](body)) == body, size


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [1, 2])
def test_sizes_just_above_pieces(name: str, pieces: int) -> None:
    for size in range(pieces * PIECE_BYTES - 10, pieces * PIECE_BYTES + 300):
        assert len(unpack(name, PACKERS[name][1](b"a" * size))) == size


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_asked_for_first(name: str) -> None:
    """Safeguard: `grow` hears of all output in steps, and its refusal ends it."""
    told: list[int] = []
    packed = PACKERS[name][1](bytes(1_000_000))
    asyncio.run(inflate(PACKERS[name][0], packed, LIMIT, told.append))
    assert sum(told) == (2_000_000 if name == "zstd" else 1_000_000)  # with its window
    assert max(told) <= 2 * PIECE_BYTES

    def refuse(_size: int) -> None:
        raise ApiError(Kind.UNAVAILABLE, "no room")

    with pytest.raises(ApiError, match="no room"):
        asyncio.run(inflate(PACKERS[name][0], packed, LIMIT, refuse))


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_named(name: str) -> None:
    packed = PACKERS[name][1](os.urandom(1000))
    for broken in (packed[:-1], packed[: len(packed) // 2], packed[:1], b""):
        kind, detail = refused(name, broken)
        assert kind is Kind.INVALID_BODY
        assert "it ends too early" in detail or "it is empty" in detail or "not sound" in detail
    assert "empty" in refused(name, b"")[1]
    assert "not sound" in refused(name, packed + b"garbage")[1]
    if name != "raw deflate":  # which has no head, and no sum
        assert "not sound" in refused(name, BODY)[1]
    if name in ("gzip", "zlib"):
        assert "not sound" in refused(name, packed[:500] + bytes([packed[500] ^ 1]) + packed[501:])[1]


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_follow_one_another(name: str) -> None:
    """Both formats may be concatenated; no number of empty ones may keep the edge busy."""
    pack = PACKERS[name][1]
    assert unpack(name, pack(BODY) + pack(b"") + pack(BODY)) == BODY * 2
    assert unpack(name, pack(b"") * MAX_MEMBERS) == b""
    assert "parts" in refused(name, pack(b"") * (MAX_MEMBERS + 1))[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_is_exact_and_holds_while_inflating(name: str) -> None:
    pack = PACKERS[name][1]
    assert len(unpack(name, pack(bytes(100_000)), 100_000)) == 100_000
    kind, detail = refused(name, pack(bytes(100_001)), 100_000)
    assert kind is Kind.BODY_TOO_LARGE
    assert "100000 bytes" in detail
    packed = bomb(name)
    tracemalloc.start()
    assert refused(name, packed)[0] is Kind.BODY_TOO_LARGE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * LIMIT


def test_the_window_of_zstd_is_bounded() -> None:
    body = os.urandom(1000)
    assert unpack("zstd", pack_with_window(body, 23)) == body
    assert "8 MiB" in refused("zstd", pack_with_window(body, 24))[1]


def test_others_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1000)

    async def run() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        assert len(await inflate("gzip", PACKERS["gzip"][1](bytes(100_000)), LIMIT)) == 100_000
        other.cancel()
        return turns

    assert asyncio.run(run()) >= 10
