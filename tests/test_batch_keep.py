"""The pieces of a batch: how large, to which partition, and what is said of those that could not be kept.

The appenders are stubs: a failure between two pieces of one batch cannot be had for real when it is wanted.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from app.append import MAX_GROUP_BYTES, MAX_GROUP_EVENTS, Appender
from app.batch_keep import Keeper, Sender
from app.batch_verdict import Rejections
from app.errors import ApiError, Kind
from app.event_columns import Body, Good
from app.grant import Grant, KeyType
from app.stream import Record, choose_partition, join_group, split_group

GRANT = Grant(KeyType.WRITE, "key", "acc_test", "prj_test")
REQUEST_ID = "0af5d5608900000c7d813a30"


class Stub:
    """Keeps pieces in memory; from `fails_at` on it fails, once: who asks again has not listened."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.pieces: list[list[Record]] = []
        self.fails_at = fails_at
        self.asked = 0

    async def append(self, request: bytes, bucket: str, events: int) -> str:
        self.asked += 1
        if len(self.pieces) >= self.fails_at:
            raise ApiError(Kind.UNAVAILABLE, "Redis is away. Nothing was kept; send it again.")
        piece = split_group(join_group([request]))
        assert len(piece) == events
        assert bucket == "prj_test|1"
        self.pieces.append(piece)
        return "1-0"


def keep(
    stubs: list[Stub], bodies: list[Body], *, key: str = "", ids: dict[int, str] | None = None
) -> tuple[ApiError | None, Rejections]:
    own = ids or {}
    groups = [Good([at], ["e"], [own[at]] if at in own else [], ()) for at in range(len(bodies))]
    rejections = Rejections(bodies)
    sender = Sender(GRANT, REQUEST_ID, 3_600_000, ("", "agent", ""), key)
    keeper = Keeper(cast("list[Appender]", stubs))
    failure = asyncio.run(keeper.keep(sender, groups[::-1], bodies, rejections))
    return failure, rejections


@pytest.mark.parametrize("number", [1, MAX_GROUP_EVENTS, MAX_GROUP_EVENTS + 1, 2500])
def test_pieces_are_no_larger_than_a_group(number: int) -> None:
    stub = Stub()
    assert keep([stub], [b"%d" % at for at in range(number)])[0] is None
    assert max(map(len, stub.pieces)) <= MAX_GROUP_EVENTS
    found = [(record.index, record.body) for piece in stub.pieces for record in piece]
    assert found == [(at + 1, b"%d" % at) for at in range(number)]


def test_pieces_of_large_events_have_few() -> None:
    stub = Stub()
    bodies: list[Body] = [b"x" * size for size in [60_000] * 40 + [10] * 30 + [MAX_GROUP_BYTES + 1, 5]]
    keep([stub], bodies)
    sizes = [sum(len(record.body) for record in piece) for piece in stub.pieces]
    assert all(
        size <= MAX_GROUP_BYTES or len(piece) == 1 for size, piece in zip(sizes, stub.pieces, strict=True)
    )
    assert [record.index for piece in stub.pieces for record in piece] == list(range(1, len(bodies) + 1))
    assert len(stub.pieces) == 5


def test_after_a_failure_the_rest_is_not_tried_and_named() -> None:
    stub = Stub(fails_at=1)
    failure, rejections = keep([stub], [b"{}"] * 2500)
    assert failure is not None
    assert stub.asked == 2
    assert rejections.number == 1500
    verdicts = asyncio.run(rejections.explain())
    assert [verdict.index for verdict in verdicts] == list(range(1000, 2500))
    assert {verdict.code for verdict in verdicts} == {"service_unavailable"}
    assert verdicts[0].message.startswith("Redis is away")
    assert all("Nothing was kept" in verdict.message for verdict in verdicts)
    assert all("send it again" in verdict.message for verdict in verdicts)


def test_each_event_goes_where_a_single_one_would() -> None:
    """Safeguard: copies by event_id meet in one partition, whichever way they were sent."""
    stubs = [Stub(), Stub(fails_at=0), Stub()]
    ids = {at: f"id-{at}" for at in range(0, 60, 2)}
    failure, rejections = keep(stubs, [b"%d" % at for at in range(60)], key="k", ids=ids)
    assert failure is not None
    home = {at: choose_partition(3, "prj_test", ids.get(at, f"k:{at}"), REQUEST_ID) for at in range(60)}
    for number in (0, 2):
        [piece] = stubs[number].pieces
        assert [record.index - 1 for record in piece] == [at for at in home if home[at] == number]
        assert all(
            record.event_id == ("" if at in ids else f"k:{at}")
            for record in piece
            for at in [record.index - 1]
        )
    verdicts = asyncio.run(rejections.explain())
    assert [verdict.index for verdict in verdicts] == [at for at in home if home[at] == 1]
