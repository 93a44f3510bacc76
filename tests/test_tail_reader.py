"""The reader behind all tails, on a real Redis: what it misses it says, what it does is bounded."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from app import tail_reader, tombstone
from app.enrich import Geography
from app.erasure_scripts import LOG
from app.match import matcher
from app.stream import Keys
from app.tail_follower import Follower
from app.tail_frames import POSITION, EntryId, Positions, heartbeat, parse_entry, read_positions
from app.tail_listener import BUSY, MAX_QUEUED_BYTES, MISSED, RESUMED, SLOW, Listener
from app.tail_memory import before
from app.tail_reader import TailReader
from app.tombstone import Tombstone
from tests.pipeline_kit import put, record
from tests.waiting import async_until
from workers.tail_watch import messages

SECONDS = 20.0
PROJECT = "prj_test"  # of `record`


class Kit:
    """A reader of two partitions, and what it is asked."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.keys = [Keys("events", partition) for partition in range(2)]
        self.reader = TailReader(redis, "events", 2, lambda: Geography(""), retention_days=30)

    async def put(self, *numbers: int, partition: int = 0) -> str:
        bodies = [json.dumps({"event_name": "e", "n": number}).encode() for number in numbers]
        return await put(self.redis, self.keys[partition], [record(body) for body in bodies])

    async def put_wide(self, numbers: range, partition: int = 0) -> None:
        bodies = [json.dumps({"event_name": "e", "n": n, "text": "x" * 400}).encode() for n in numbers]
        await put(self.redis, self.keys[partition], [record(body) for body in bodies])

    async def put_other(self, partition: int) -> None:
        """Of another project."""
        other = msgspec.structs.replace(record(), project_id="prj_other")
        await put(self.redis, self.keys[partition], [other])

    async def put_one(self, number: int, *, recorded: int) -> None:
        """As a spool brings it back."""
        body = json.dumps({"event_name": "e", "n": number}).encode()
        await put(self.redis, self.keys[0], [record(body, recorded=recorded)])

    async def erase(self, up_to_ms: int) -> None:
        """Everybody's events of the project."""
        await self.redis.xadd(LOG, {"t": tombstone.encode(Tombstone("era_1", PROJECT, up_to_ms))})

    async def listen(self, after: Positions | None = None, project: str = PROJECT) -> Listener:
        listener = Listener(project, None, matcher(()))
        await self.reader.listen(listener, after)
        if after is not None:
            await self.reader.catch_up(listener)
        return listener

    async def gone_on(self, partition: int = 0) -> None:
        """Until the reader has read, and remembers, what is in the partition."""
        about: dict[str, Any] = await self.redis.xinfo_stream(self.keys[partition].entries)
        last = parse_entry(about["last-generated-id"])

        async def is_there() -> bool:
            return self.reader._partitions[partition].follower.position == last

        await async_until(is_there, SECONDS, "the reader to have gone on")

    async def trim(self, partition: int = 0) -> None:
        """As a drain does: everything is stored."""
        keys = self.keys[partition]
        about: dict[str, Any] = await self.redis.xinfo_stream(keys.entries)
        async with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.xtrim(keys.entries, maxlen=0, approximate=False)
            pipeline.hset(keys.progress, "acknowledged", about["last-generated-id"])
            await pipeline.execute()


def run(redis_url: str, test: Callable[[Kit], Awaitable[None]]) -> None:
    async def run_it() -> None:
        redis: Redis = Redis.from_url(redis_url)
        kit = Kit(redis)
        try:
            async with asyncio.timeout(SECONDS):
                await test(kit)
        finally:
            await kit.reader.close()
            await redis.aclose()

    asyncio.run(run_it())


async def taken(listener: Listener, count: int) -> list[tuple[str, Any]]:
    """So many messages: name and data."""
    found: list[tuple[str, Any]] = []

    async def enough() -> bool:
        for piece in await listener.take(0.01):
            found.extend(
                (one.name, msgspec.json.decode(one.data)) for one in messages(piece.decode().split("\n"))
            )
        return len(found) >= count

    await async_until(enough, SECONDS, f"{count} messages")
    return found


def numbers(found: list[tuple[str, Any]]) -> list[int]:
    return [data["n"] for name, data in found if name == "message"]


def test_all_who_listen_see_all_partitions_from_then_on(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        await kit.put(0)
        one, others = await kit.listen(), await kit.listen(project="another")
        await kit.put(1, 2)
        await kit.put(3, partition=1)
        two = await kit.listen()
        await kit.put(4)
        assert sorted(numbers(await taken(one, 4))) == [1, 2, 3, 4]
        assert 4 in numbers(await taken(two, 1))
        assert await others.take(0.01) == []
        # Nothing was changed: no group, and every entry still there.
        assert await kit.redis.xlen(kit.keys[0].entries) == 3
        assert await kit.redis.xinfo_groups(kit.keys[0].entries) == []

    run(redis_url, test)


def test_entries_that_were_trimmed_before_they_were_read_are_a_gap(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        follower = Follower(kit.redis, kit.keys[0])
        await follower.begin()
        await kit.put(1)
        entries, is_gap = await follower.read()
        assert (len(entries), is_gap) == (1, False)
        follower.advance(entries[0].id)
        await kit.trim()
        assert await follower.read() == ([], False)  # what was read is no gap
        await kit.put(2)
        await kit.trim()
        await kit.put(3)
        entries, is_gap = await follower.read()
        assert (len(entries), is_gap) == (1, True)

    run(redis_url, test)


def test_a_gap_is_told(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(kit: Kit) -> None:
        reads = asyncio.Event()
        read = Follower.read

        async def late(self: Follower) -> Any:
            await reads.wait()
            return await read(self)

        monkeypatch.setattr(Follower, "read", late)
        listener = await kit.listen()
        await kit.put(1)
        await kit.trim()
        await kit.put(2)
        reads.set()
        found = await taken(listener, 2)
        assert numbers(found) == [2]
        assert ("dropped", {"count": None, "reason": MISSED}) in found

    run(redis_url, test)


@pytest.mark.parametrize("entry", [(1_796_065_485_087, 0), (1_796_065_485_087, 3)])
def test_a_place_before_an_entry_is_one_that_a_client_may_bring_back(entry: EntryId) -> None:
    (told,) = messages(heartbeat({0: before(entry)}).decode().split("\n"))
    assert re.fullmatch(POSITION, told.id)
    assert read_positions(told.id)[0] < entry


def test_a_slow_reader_loses_events_and_is_told_how_many(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        slow, fast = await kit.listen(), await kit.listen()
        large, count = json.dumps({"event_name": "e", "n": 1, "x": "y" * 60_000}).encode(), 20
        for _ in range(count):
            await put(kit.redis, kit.keys[0], [record(large)])
            assert numbers(await taken(fast, 1)) == [1]
        found = await taken(slow, 2)
        kept = len(numbers(found))
        assert 0 < kept <= MAX_QUEUED_BYTES // 60_000
        assert found[-1] == ("dropped", {"count": count - kept, "reason": SLOW})
        await kit.put(2)  # and then goes on
        assert numbers(await taken(slow, 1)) == [2]

    run(redis_url, test)


@pytest.mark.parametrize("seed", range(4))
def test_wherever_a_slow_reader_is_cut_off_it_goes_on_or_is_told(redis_url: str, seed: int) -> None:
    """At each message: what lies before its last id, and it was not shown, it has been told of."""
    chance = random.Random(seed)

    async def test(kit: Kit) -> None:
        slow = await kit.listen()
        entries: dict[EntryId, set[int]] = {}
        for first in range(0, 300, 5):
            some = range(first, first + 5)
            bodies = [{"event_name": "e", "n": n, "x": "y" * chance.choice((10, 30_000))} for n in some]
            records = [record(json.dumps(body).encode()) for body in bodies]
            entries[parse_entry(await put(kit.redis, kit.keys[0], records))] = set(some)
        await kit.gone_on()
        place: EntryId = (0, 0)
        shown: set[int] = set()
        told = 0
        for one in [
            found for piece in await slow.take(0.01) for found in messages(piece.decode().split("\n"))
        ]:
            data = msgspec.json.decode(one.data)
            if one.name == "message":
                shown.add(data["n"])
            else:
                told += data["count"]
            place = read_positions(one.id)[0] if one.id else place
            passed = {n for entry, some in entries.items() if entry <= place for n in some}
            assert len(passed - shown) <= told
        assert (len(shown) + told, told > 0) == (300, True)

    run(redis_url, test)


def test_looking_into_events_is_bounded(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_reader, "SHARE", 0.0)
    monkeypatch.setattr(tail_reader, "BURST_SECONDS", 0.01)

    async def test(kit: Kit) -> None:
        listener = await kit.listen()
        for start in range(0, 4000, 500):
            await kit.put(*range(start, start + 500))
        seen, missed = 0, 0

        async def all_told() -> bool:
            nonlocal seen, missed
            for piece in await listener.take(0.01):
                for one in messages(piece.decode().split("\n")):
                    seen += one.name == "message"
                    if one.name == "dropped":
                        told = msgspec.json.decode(one.data)
                        assert told["reason"] in (BUSY, SLOW)
                        missed += told["count"]
            return seen + missed == 4000

        await async_until(all_told, SECONDS, "the fate of every event")
        assert 0 < seen < 4000

    run(redis_url, test)


def test_whoever_was_cut_off_goes_on_and_sees_nothing_erased(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        await kit.put(0)
        first = await kit.listen()
        await kit.put(1)
        assert numbers(await taken(first, 1)) == [1]
        after = first.positions
        kit.reader.leave(first)
        await kit.put(2)
        await kit.put(3, partition=1)
        follower = kit.reader._partitions[0].follower
        await async_until(lambda: _is_after(follower, after), SECONDS, "the reader to have gone on")
        again = await kit.listen(after)
        assert sorted(numbers(await taken(again, 2))) == [2, 3]
        found = await taken(await kit.listen({0: (1, 1)}), 2)
        assert ("dropped", {"count": None, "reason": RESUMED}) in found
        await kit.erase(time.time_ns() // 1_000_000)
        assert await (await kit.listen(after)).take(0.01) == []

    run(redis_url, test)


def test_whoever_is_shown_nothing_for_long_goes_on_from_there(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside others' events, of which more have come than are remembered."""
    monkeypatch.setattr("app.tail_reader.MAX_REMEMBERED_BYTES", 40_000)

    async def test(kit: Kit) -> None:
        quiet = await kit.listen(project="quiet")
        before = kit.reader.positions(quiet)
        for partition in (0, 1):
            await kit.put_wide(range(300), partition=partition)
            await kit.put_wide(range(300), partition=partition)
        await kit.gone_on()
        await kit.gone_on(partition=1)
        (still_here,) = messages(heartbeat(kit.reader.positions(quiet)).decode().split("\n"))
        kit.reader.leave(quiet)
        assert await (await kit.listen(read_positions(still_here.id), "quiet")).take(0.01) == []
        told = await taken(await kit.listen(before, "quiet"), 1)
        assert told == [("dropped", {"count": None, "reason": RESUMED})]

    run(redis_url, test)


def test_an_event_after_long_tells_of_all_partitions(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        listener = await kit.listen()
        await kit.put_other(partition=1)
        await kit.gone_on(partition=1)
        await kit.put(1)
        assert numbers(await taken(listener, 1)) == [1]
        assert listener.positions == kit.reader.positions(listener)

    run(redis_url, test)


def test_whoever_goes_on_gets_all_that_is_remembered_and_a_large_entry_as_well(redis_url: str) -> None:
    """Several times what a queue holds, for a client that takes it; then live, in one entry."""

    async def test(kit: Kit) -> None:
        first = await kit.listen()
        after = first.positions
        for begin in range(0, 4000, 100):
            await kit.put_wide(range(begin, begin + 100))
        await kit.gone_on()
        again = Listener(PROJECT, None, matcher(()))
        await kit.reader.listen(again, after)
        missed = asyncio.create_task(kit.reader.catch_up(again))
        found = await taken(again, 4000)
        await missed
        await kit.put_wide(range(4000, 6000))
        found += await promptly(again, 2000)
        assert [name for name, _ in found if name != "message"] == []
        assert numbers(found) == list(range(6000))

    run(redis_url, test)


def test_a_gap_behind_the_back_of_whoever_goes_on_is_told(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a partition that it has looked back at already, while it looks at the other one for the last time."""

    async def test(kit: Kit) -> None:
        after = (await kit.listen()).positions
        look_back = kit.reader._look_back

        async def then_a_gap(listener: Listener, *patience: float) -> None:
            await look_back(listener, *patience)
            if kit.reader._turn.locked():
                kit.reader._partitions[0].forget((2**40, 0))

        monkeypatch.setattr(kit.reader, "_look_back", then_a_gap)
        again = await kit.listen(after)
        assert ("dropped", {"count": None, "reason": RESUMED}) in await taken(again, 1)

    run(redis_url, test)


def test_many_that_go_on_take_nothing_from_one_another_nor_from_who_is_there(redis_url: str) -> None:
    """Entries of one event each, which cost most."""

    async def test(kit: Kit) -> None:
        first = await kit.listen()
        after = first.positions
        for number in range(2000):
            await kit.put(number)
        await kit.gone_on()
        kit.reader.leave(first)
        present = await kit.listen()

        async def goes_on() -> list[tuple[str, Any]]:
            again = Listener(PROJECT, None, matcher(()))
            await kit.reader.listen(again, after)
            catching_up = asyncio.create_task(kit.reader.catch_up(again))
            found = await promptly(again, 2100)
            await catching_up
            return found

        async def comes() -> None:
            for number in range(2000, 2100):
                await kit.put(number)

        *all_of_it, what_came, _ = await asyncio.gather(
            *(goes_on() for _ in range(6)), promptly(present, 100), comes()
        )
        assert what_came is not None
        assert numbers(what_came) == list(range(2000, 2100))
        for found in all_of_it:
            assert found is not None
            assert numbers(found) == list(range(2100))

    run(redis_url, test)


def test_an_outage_while_somebody_goes_on_costs_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_reader, "LEARN_SECONDS", 0.0)  # it asks what is erased at each step

    async def test(kit: Kit) -> None:
        first = await kit.listen()
        after = first.positions
        for begin in range(0, 300, 100):
            await kit.put_wide(range(begin, begin + 100))
        await kit.gone_on()
        again = Listener(PROJECT, None, matcher(()))
        await kit.reader.listen(again, after)
        refresh, outages = kit.reader._tombstones.refresh, iter([False, True, False, False, True])

        async def fails_twice() -> None:
            if next(outages, False):
                raise ConnectionError
            await refresh()

        monkeypatch.setattr(kit.reader._tombstones, "refresh", fails_twice)
        catching_up = asyncio.create_task(kit.reader.catch_up(again))
        found: list[int] = []
        while len(set(found)) < 300:
            found += numbers(await taken(again, 1))
        await catching_up
        assert next(outages, None) is None, "there were both outages"
        assert sorted(set(found)) == list(range(300))  # those of the entry that it broke off come twice

    run(redis_url, test)


def test_an_outage_that_is_longer_than_the_reader_lingers_ends_nobodys_tail(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only tail catches up; that is somebody too for whom the stream is read."""
    monkeypatch.setattr(tail_reader, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(tail_reader, "RETRY_SECONDS", 0.0)

    async def test(kit: Kit) -> None:
        first = await kit.listen()
        after = first.positions
        await kit.put_wide(range(100))
        await kit.gone_on()
        again = Listener(PROJECT, None, matcher(()))
        await kit.reader.listen(again, after)
        kit.reader.leave(first)
        refresh, is_away = kit.reader._tombstones.refresh, True

        async def fails() -> None:
            if is_away:
                raise ConnectionError
            await refresh()

        monkeypatch.setattr(kit.reader._tombstones, "refresh", fails)
        catching_up = asyncio.create_task(kit.reader.catch_up(again))
        await kit.put(100)
        await kit.gone_on()  # read and remembered meanwhile
        is_away = False
        found = numbers(await taken(again, 101))
        await catching_up
        await kit.put(101)
        assert found + numbers(await taken(again, 1)) == list(range(102))

    run(redis_url, test)


async def promptly(listener: Listener, count: int) -> list[tuple[str, Any]]:
    """So many messages, each as soon as there is one."""
    found: list[tuple[str, Any]] = []
    while len(found) < count:
        for piece in await listener.take(1.0):
            found += [
                (one.name, msgspec.json.decode(one.data)) for one in messages(piece.decode().split("\n"))
            ]
    return found


def test_what_was_erased_long_ago_is_not_shown_when_a_spool_brings_it_back(redis_url: str) -> None:
    async def test(kit: Kit) -> None:
        now = time.time_ns() // 1_000_000
        await kit.erase(now - 60_000)  # clean since, so no query has to look away
        listener = await kit.listen()
        await kit.put_one(0, recorded=now - 31 * 86_400_000)  # older than anybody keeps it
        await kit.put_one(1, recorded=now - 60_001)
        await kit.put_one(2, recorded=now - 59_999)
        assert numbers(await taken(listener, 1)) == [2]
        await kit.erase(now)
        await kit.put_one(3, recorded=now)
        await kit.put_one(4, recorded=now + 1)
        assert numbers(await taken(listener, 1)) == [4]

    run(redis_url, test)


async def _is_after(follower: Follower, positions: Positions) -> bool:
    return follower.position > positions[0]


def test_a_steady_stream_is_not_taken_for_one_that_is_too_fast(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read finds something, and none leaves anything behind."""
    monkeypatch.setattr(tail_reader, "BEHIND_SECONDS", 0.0)

    async def test(kit: Kit) -> None:
        listener = await kit.listen()
        for n in range(100):
            await kit.put(n)
        assert numbers(await taken(listener, 100)) == list(range(100))

    run(redis_url, test)


def test_a_stream_that_is_too_fast_is_left_behind(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_reader, "BEHIND_SECONDS", -1.0)
    monkeypatch.setattr(tail_reader, "READ_COUNT", 1)

    async def test(kit: Kit) -> None:
        listener = await kit.listen()
        await kit.put(1)
        assert await taken(listener, 1) == [("dropped", {"count": None, "reason": BUSY})]

    run(redis_url, test)


def test_what_it_stumbles_on_is_passed_over(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look = TailReader._look_into

    async def stumble(self: TailReader, entry: Any, *arguments: Any) -> None:
        if b'"n": 1}' in entry.payload:
            raise RuntimeError("a bug")
        await look(self, entry, *arguments)

    monkeypatch.setattr(TailReader, "_look_into", stumble)

    async def test(kit: Kit) -> None:
        listener = await kit.listen()
        await kit.put(1)
        found = await taken(listener, 1)
        assert found == [("dropped", {"count": None, "reason": MISSED})]
        partition = kit.reader._partitions[0]

        async def has_begun_anew() -> bool:
            return not partition.begins_anew and partition.follower.position > (0, 0)

        await async_until(has_begun_anew, SECONDS, "the reader to go on")
        await kit.put(2)
        assert numbers(await taken(listener, 1)) == [2]

    run(redis_url, test)
