"""The edge's end of the stream against a real Redis: every append that returned is there exactly once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from app.append import MAX_GROUP_BYTES, MAX_GROUP_EVENTS
from app.context import MAX_CHARACTERS
from app.event import MAX_EVENT_ID_CHARACTERS
from app.ledger import count, encode_counts
from app.producer import Producer
from app.settings import Limits
from app.stream import encode_record, encode_request, join_group, split_group
from app.stream_scripts import APPEND, MAX_PRODUCERS
from tests.append_edge import EXPECTED, edge
from tests.pipeline_kit import (
    assert_conserved,
    entries,
    make_settings,
    record,
)
from tests.redis_fixture import RedisServer
from tests.redis_proxy import losing_proxy
from tests.waiting import async_until


def test_a_lone_record_goes_at_once(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: no timer before an append; fifty one after the other would add up."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await made.append(0)
            began = time.monotonic()
            for number in range(1, 51):
                await made.append(number)
            assert time.monotonic() - began < 2.5
            assert await made.numbers() == list(range(51))
            assert await made.redis.xlen(made.keys.entries) == 51

    asyncio.run(run())


def test_a_thousand_at_once_share_few_appends(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: group commit; and the ledger counts events, not entries."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await asyncio.gather(*(made.append(n) for n in range(1000)))
            assert await made.redis.xlen(made.keys.entries) <= 4
            assert sorted(await made.numbers()) == list(range(1000))
            assert await made.redis.hget(made.keys.ledger, "appended") == b"1000"

    asyncio.run(run())


class Told:
    """Waits for its group, and notes when it is told."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def done(self) -> bool:
        return False

    def set_result(self, _entry_id: str) -> None:
        self.order.append("answered")

    def set_exception(self, error: Exception) -> None:
        raise error


async def counted(order: list[str], what: str, number: int) -> bool:
    return order.count(what) == number


def test_the_next_group_is_sent_before_the_former_is_answered(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise Redis has nothing to do while the answers of a group are written, a fifth of the time."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            order: list[str] = []
            send = Producer._send

            async def noted(producer: Producer, *arguments: Any) -> bytes:
                order.append("sent")
                if len(order) == 1:  # the next one comes while it is under way
                    made.appender.submit(one, "prj_test|1", Told(order))
                return await send(producer, *arguments)

            monkeypatch.setattr(Producer, "_send", noted)
            one = encode_record(record())
            made.appender.submit(one, "prj_test|1", Told(order))
            await async_until(lambda: counted(order, "answered", 2), 5, "both answers")
            assert order == ["sent", "sent", "answered", "answered"]

    asyncio.run(run())


def test_a_group_is_bounded(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: MAX_GROUP_EVENTS and MAX_GROUP_BYTES, the bound of one entry."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await asyncio.gather(*(made.append(n) for n in range(2500)))
            big = encode_record(record(b'{"x":"%s"}' % (b"x" * 300_000)))
            await asyncio.gather(*(made.appender.append(big, "prj_test|1") for _ in range(12)))
            payloads = [fields[b"r"] for _, fields in await entries(made.redis, made.keys.entries)]
            assert max(len(split_group(payload)) for payload in payloads) <= 1000
            assert max(map(len, payloads)) < MAX_GROUP_BYTES + 16
            assert sum(len(split_group(payload)) for payload in payloads) == 2512

            many = [(n + 1, b"{}", "") for n in range(700)]
            piece = encode_request(bytes(12), 0, "prj_test", "", context=("", "", ""), events=many)
            await asyncio.gather(*(made.appender.append(piece, "prj_test|1", 700) for _ in range(3)))
            payloads = [fields[b"r"] for _, fields in await entries(made.redis, made.keys.entries)][-3:]
            assert [len(split_group(payload)) for payload in payloads] == [700, 700, 700]
            assert await made.redis.hget(made.keys.ledger, "appended") == b"4612"

            large = encode_record(record(b"x" * MAX_GROUP_BYTES))  # more than a group, in one of its own
            await asyncio.gather(*(made.appender.append(one, "prj_test|1") for one in (big, large, big, big)))
            payloads = [fields[b"r"] for _, fields in await entries(made.redis, made.keys.entries)][-3:]
            assert [len(split_group(payload)) for payload in payloads] == [1, 1, 2]

    asyncio.run(run())


def test_the_least_max_pending_bytes_holds_any_one_request() -> None:
    """Safeguard: a piece of a batch that is larger than the bound would be refused for ever."""
    context = ("a" * 64, *("\U0001f600" * MAX_CHARACTERS,) * 2)
    size = MAX_GROUP_BYTES // MAX_GROUP_EVENTS
    many = [(n + 1, b"x" * size, "\U0001f600" * MAX_EVENT_ID_CHARACTERS) for n in range(MAX_GROUP_EVENTS)]
    most = msgspec.json.schema(Limits)["$defs"]["Limits"]["properties"]
    for events in (many, [(1, b"x" * most["max_event_bytes"]["maximum"], many[0][2])]):
        request = encode_request(bytes(12), 2**50, "p" * 99, "c" * 256, context=context, events=events)
        assert MAX_GROUP_BYTES < len(request) <= most["max_pending_bytes"]["minimum"]


def test_the_same_incarnation_and_sequence_twice_is_a_no_op(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: the script compares the sequence with the last one of the incarnation."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            await made.append(1)
            made.appender._sequence -= 1
            await made.append(1)
            assert await made.numbers() == [1]
            assert await made.redis.hget(made.keys.ledger, "appended") == b"1"
            await made.append(2)
            assert await made.numbers() == [1, 2]

    asyncio.run(run())


def test_a_lost_reply_is_repeated_and_stored_once(
    tmp_path: Path, redis_server: RedisServer, redis_url: str
) -> None:
    """Safeguards: the append is repeated at all, and under its own sequence number."""

    async def run() -> None:
        socket = tmp_path / "proxy.sock"
        settings = make_settings(tmp_path, f"unix://{socket}")
        async with losing_proxy(redis_server.socket, socket) as proxy, edge(settings) as made:
            await made.append(0)
            for number in range(1, 6):
                proxy.swallow = number % 3 + 1
                await made.append(number)
            assert proxy.swallowed == 2 + 3 + 1 + 2 + 3
            assert await made.numbers() == list(range(6))

    asyncio.run(run())


def test_flushed_scripts_are_no_failure(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: NOSCRIPT is answered with the script itself."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            for number in range(4):
                await made.redis.script_flush()
                await made.append(number)
            assert await made.numbers() == [0, 1, 2, 3]

    asyncio.run(run())


def test_what_is_remembered_of_edges_is_bounded(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: the oldest incarnation is forgotten beyond MAX_PRODUCERS; all others stay exact."""
    few = APPEND.replace(str(MAX_PRODUCERS), "3")
    monkeypatch.setattr("app.producer.APPEND", few)

    async def run() -> None:
        settings = make_settings(tmp_path, redis_url)
        seen = []
        for number in range(5):
            async with edge(settings) as made:
                await made.append(number)
                seen.append(made.appender._incarnation)
                keys = made.keys
                assert await made.redis.hlen(keys.producers) == min(number + 1, 3)
        async with edge(settings) as made:
            remembered = cast("list[bytes]", await made.redis.hkeys(keys.producers))
            assert sorted(name.decode() for name in remembered) == sorted(seen[2:])

    asyncio.run(run())


def test_several_groups_in_one_append_are_each_known(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: a bunch of which Redis knows the beginning adds only its rest, in order, counted once."""

    async def run() -> None:
        async with edge(make_settings(tmp_path, redis_url)) as made:
            producer = Producer(made.redis.connection_pool, made.keys, EXPECTED)
            records = [record(b'{"n":%d}' % n) for n in range(6)]
            groups = [
                (1, encode_counts(count([one])).encode(), join_group([encode_record(one)])) for one in records
            ]
            assert await producer.append("ab" * 12, 1, groups[:2], timeout_seconds=5)
            assert await producer.append("ab" * 12, 1, groups[:4], timeout_seconds=5)
            assert await producer.append("ab" * 12, 2, groups[1:3], timeout_seconds=5) == ""
            assert await producer.append("ab" * 12, 4, groups[3:], timeout_seconds=5)
            assert await made.numbers() == list(range(6))
            await assert_conserved(made.redis, made.keys)
            await producer.close()

    asyncio.run(run())
