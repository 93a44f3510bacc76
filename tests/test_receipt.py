"""Receipts against a real Redis, engine and spool: an event that moves is never unknown, a stranger's always."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from app import dead_letter, fates, redis_client, whereabouts
from app import receipt as receipts
from app.dead import DeadLetters
from app.dead_letter import DeadLetter, Found, Wanted
from app.erasures import Erasures
from app.errors import ApiError
from app.fates import Fate
from app.grant import Grant, KeyType
from app.receipt import ReceiptHandler
from app.registry import Registry
from app.store import Store
from app.stream import Keys, Record, encode_record
from app.tombstone import Tombstone
from app.whereabouts import Stored, Stream, UniqueReqId
from tests.append_edge import own_redis, spooling_edge
from tests.pipeline_kit import POISON, Bench, make_eraser, make_settings, put, record
from tests.pipeline_kit import ledger as read_ledger
from tests.pipeline_steps import Open, opened, refusing
from tests.redis_fixture import RedisServer
from tests.waiting import async_until

__all__ = ["opened", "own_redis"]

OWN = Grant(KeyType.WRITE, "key_1", "acc_1", "prj_test")
OTHER = msgspec.structs.replace(OWN, project_id="prj_other")
ALICE = msgspec.structs.replace(OWN, customer_identifier="alice")
BOB = msgspec.structs.replace(OWN, customer_identifier="bob")
OF_ALICE = b'{"event_name":"test","customer_identifier":"alice"}'
UNKNOWN = {"state": "unknown"}


class Empty:
    """A spool in which nothing waits."""

    async def find(self, request_id: bytes) -> list[bytes]:
        return []


class Desk:
    """What answers receipts, in front of one bench."""

    def __init__(
        self,
        made: Bench,
        *,
        redis: Redis | None = None,
        store: Store | None = None,
        letters: DeadLetters | None = None,
        spool: receipts.Spool | None = None,
        stream: Stream | None = None,
    ) -> None:
        redis = redis or made.redis
        self._handler = ReceiptHandler(
            cast("Registry", None),  # keys are not the matter here
            spool or Empty(),
            stream or Stream(redis, made.settings.producer.queue, 1),
            letters or DeadLetters(redis, made.settings),
            Stored(store or made.store),
            hiding=Erasures(redis, made.store, made.settings.producer.queue),
        )

    async def ask(self, one: Record | bytes, grant: Grant = OWN) -> dict[str, str | int]:
        identity = one if isinstance(one, bytes) else one.unique_req_id
        return await self._handler._find(UniqueReqId(identity), grant)

    async def state(self, one: Record, grant: Grant = OWN) -> object:
        return (await self.ask(one, grant))["state"]


def made_now(body: bytes = b'{"event_name":"test"}', **members: object) -> Record:
    """A record whose id holds the time, as the edge's ids do."""
    now = time.time_ns() // 1_000_000
    one = msgspec.structs.replace(record(body), request_id=now.to_bytes(6, "big") + os.urandom(6))
    return msgspec.structs.replace(one, **members)


async def is_dead(made: Bench, number: int) -> bool:
    return (await read_ledger(made.redis, made.keys)).get("dead", 0) == number and await made.is_empty()


async def set_aside(made: Bench, *records: Record) -> list[Found]:
    made.store.faults = [refusing(117) for _ in records]
    for number, one in enumerate(records):
        await made.put([one])
        async with made.draining():
            await async_until(lambda number=number: is_dead(made, number + 1), 10)  # type: ignore[misc]
    return (await DeadLetters(made.redis, made.settings).page(Wanted(), "", 1000)).found


def test_every_state_in_turn_and_no_hint_to_strangers(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            desk, one = Desk(made), made_now(OF_ALICE)
            recorded = one.time_recorded

            async def expect(**receipt: object) -> None:
                for grant in (OWN, ALICE):
                    assert await desk.ask(one, grant) == receipt
                for grant in (OTHER, BOB):
                    assert await desk.ask(one, grant) == UNKNOWN
                assert await desk.ask(one.request_id + b"\0\0\0\2") == UNKNOWN

            await expect(state="unknown")
            await made.put([one])
            await expect(state="queued", time_recorded=recorded)
            made.store.faults = [refusing(117)]
            async with made.draining():
                await async_until(lambda: is_dead(made, 1), 10)
            letters = DeadLetters(made.redis, made.settings)
            [found] = (await letters.page(Wanted(), "", 10)).found
            await expect(state="dead", reason="refused by the store: simulated", time_recorded=recorded)
            await letters.replay([found])
            await expect(state="queued", time_recorded=recorded)
            async with made.draining():
                await async_until(made.is_empty, 10)
            await expect(state="stored", time_recorded=recorded)

    asyncio.run(run())


def test_a_purged_letter_and_a_duplicate(opened: Open) -> None:
    """A key of one customer is told that its event was a copy, and of whose it was only if it may see that."""

    async def run() -> None:
        async with opened() as made:
            desk, purged, first, copy = Desk(made), made_now(OF_ALICE), made_now(), made_now(OF_ALICE)
            [found] = await set_aside(made, purged)
            await DeadLetters(made.redis, made.settings).purge([found], made.store)
            erased = {"state": "erased", "time_recorded": purged.time_recorded}
            for grant, receipt in ((OWN, erased), (ALICE, erased), (BOB, UNKNOWN), (OTHER, UNKNOWN)):
                assert await desk.ask(purged, grant) == receipt

            await made.put([first])
            async with made.draining():
                await async_until(made.is_empty, 10)
            names = [one.unique_req_id.hex() for one in (first, copy)]
            fate = Fate(copy.unique_req_id, "prj_test", "alice", "duplicate", names[0], copy.time_recorded)
            await fates.write(made.store, [fate], timeout_seconds=10)
            duplicate = {"state": "duplicate", "time_recorded": copy.time_recorded}
            assert await desk.ask(copy) == {**duplicate, "duplicate_of": names[0]}
            assert await desk.ask(copy, ALICE) == duplicate
            for grant in (BOB, OTHER):
                assert await desk.ask(copy, grant) == UNKNOWN

    asyncio.run(run())


def test_an_event_that_moves_is_never_unknown(opened: Open) -> None:
    """Safeguard: the order of the looks, and the second look at what was replayed between them."""

    async def run() -> None:
        async with opened() as made:
            desk, letters = Desk(made), DeadLetters(made.redis, made.settings)
            known: list[Record] = []
            end = time.monotonic() + 4

            async def produce() -> None:
                while time.monotonic() < end:
                    some = [made_now(POISON if len(known) % 3 == 0 else b'{"event_name":"test"}')]
                    await made.put(some)
                    known.extend(some)
                    await asyncio.sleep(0.005)

            async def replay() -> None:
                while time.monotonic() < end:
                    await letters.replay((await letters.page(Wanted(), "", 100)).found)
                    await asyncio.sleep(0)

            async def look() -> int:
                number = 0
                while time.monotonic() < end:
                    for one in known[-3:]:
                        assert await desk.state(one) in ("queued", "stored", "dead")
                        number += 1
                    await asyncio.sleep(0)
                return number

            async with made.draining():
                looked, *_ = await asyncio.gather(look(), look(), produce(), replay())
            assert looked > 50

    asyncio.run(run())


@pytest.mark.parametrize("becomes", ["queued", "stored", "dead"])
def test_a_letter_that_is_replayed_between_two_looks(opened: Open, becomes: str) -> None:
    """Safeguard: the looks that follow when nothing was found. The event moves at the worst moments: it is
    replayed after the look at the stream, and it may go on before the stream is looked at again."""

    async def run() -> None:
        async with opened() as made:
            one = made_now()
            found = await set_aside(made, one)
            moves: list[Callable[[], Awaitable[None]]] = []

            class Late(DeadLetters):
                async def find(self, address: str) -> Found | None:
                    if len(moves) == 2:
                        await moves.pop()()
                    return await super().find(address)

            class LateStream(Stream):
                async def find(
                    self, wanted: UniqueReqId, project_id: str, since_ms: int | None = None
                ) -> tuple[Record | None, bool]:
                    if len(moves) == 1:
                        await moves.pop()()
                    return await super().find(wanted, project_id, since_ms)

            async def replayed() -> None:
                assert (await late.replay(found)).done == 1

            async def gone_on() -> None:
                if becomes != "queued":
                    made.store.faults = [refusing(117)] if becomes == "dead" else []
                    async with made.draining():
                        await async_until(made.is_empty, 10)

            late = Late(made.redis, made.settings)
            moves += [gone_on, replayed]
            desk = Desk(made, letters=late, stream=LateStream(made.redis, made.settings.producer.queue, 1))
            assert await desk.state(one) == becomes
            assert not moves

    asyncio.run(run())


def test_long_streams_are_searched_where_the_event_must_be_first(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: the bound of a search; beyond it nobody is told `unknown`."""
    monkeypatch.setattr(whereabouts, "CALL_BYTES", 20_000)
    monkeypatch.setattr(whereabouts, "MAX_BYTES", 400_000)

    async def run() -> None:
        async with opened() as made:
            desk, now = Desk(made), time.time_ns() // 1_000_000
            near, spooled, last = made_now(), made_now(), made_now()
            noise = [made_now(b'{"event_name":"test","x":"%s"}' % (b"x" * 8000)) for _ in range(200)]
            for number, one in enumerate(noise[:100]):
                await add(made, f"{now - 500_000 + number}-0", one)
            await add(made, f"{now + 100}-0", near)
            for number, one in enumerate(noise[100:120]):
                await add(made, f"{now + 20_000 + number}-0", one)
            await add(made, f"{now + 30_000}-0", spooled)
            for number, one in enumerate(noise[120:]):
                await add(made, f"{now + 40_000 + number}-0", one)
            await add(made, f"{now + 50_000}-0", last)
            for one in (near, spooled, noise[100]):
                assert await desk.state(one) == "queued"
            with pytest.raises(ApiError) as caught:
                await desk.ask(last)
            assert (caught.value.row.status, caught.value.retry_after_seconds) == (503, 2)
            assert "not all of them could be looked at" in caught.value.detail
            monkeypatch.setattr(whereabouts, "MAX_BYTES", 4_000_000)
            for one in (last, noise[0], noise[99]):
                assert await desk.state(one) == "queued"
            assert await desk.ask(made_now()) == UNKNOWN

    asyncio.run(run())


async def add(made: Bench, entry: str, one: Record) -> None:
    payload = b"\xdd\x00\x00\x00\x01" + encode_record(one)
    await made.redis.xadd(made.keys.entries, {"r": payload, "c": ""}, id=entry)


def test_former_partitions_are_looked_at_too(opened: Open) -> None:
    """Safeguard: a spool may be replayed, and what it held may die, long after the partitions became fewer."""

    async def run() -> None:
        async with opened() as made:
            queued, dead = made_now(), made_now()
            former = Keys(made.settings.producer.queue, 5, made.settings.consumer.dead_letter_queue)
            await put(made.redis, former, [queued])
            letter = dead_letter.encode(DeadLetter("simulated", 0, "1-0", dead))
            place = await made.redis.xadd(former.dead, {"d": letter})
            await made.redis.hset(former.dead_ids, dead.unique_req_id.hex(), place)
            letters = DeadLetters(made.redis, made.settings)
            stream = Stream(made.redis, made.settings.producer.queue, 1)
            assert await Desk(made, letters=letters, stream=stream).state(queued) == "unknown"
            letters.watch(6)
            stream.watch(6)
            desk = Desk(made, letters=letters, stream=stream)
            assert (await desk.state(queued), await desk.state(dead)) == ("queued", "dead")
            [found] = (await letters.page(Wanted(), "", 10)).found
            assert (await letters.replay([found])).done == 1
            assert await desk.state(dead) == "queued"

    asyncio.run(run())


def test_the_bytes_of_an_id_inside_a_body_are_no_event(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            wanted = made_now()
            await made.put([made_now(b"%b" % wanted.unique_req_id)])
            await made.redis.xadd(made.keys.entries, {"r": b"\xc1" + wanted.unique_req_id})
            assert await Desk(made).ask(wanted) == UNKNOWN
            for strange in (bytes(16), b"\xff" * 16):
                assert await Desk(made).ask(strange) == UNKNOWN

    asyncio.run(run())


def test_without_redis_the_store_alone_may_answer(opened: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with opened() as made:
            stored, queued, erased = made_now(), made_now(), made_now()
            [found] = await set_aside(made, erased)
            await DeadLetters(made.redis, made.settings).purge([found], made.store)
            await made.put([stored])
            async with made.draining():
                await async_until(made.is_empty, 10)
            await made.put([queued])
            away = msgspec.structs.replace(made.settings, redis_url=f"unix://{tmp_path}/nowhere.sock")
            redis = redis_client.connect(away)
            desk = Desk(made, redis=redis)
            assert await desk.state(stored) == "stored"
            for one in (queued, erased, made_now()):
                with pytest.raises(ApiError) as caught:
                    await desk.ask(one)
                assert (caught.value.row.status, caught.value.retry_after_seconds) == (503, 2)
            await redis.aclose()

    asyncio.run(run())


def test_without_the_store_redis_alone_may_answer(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            queued, dead = made_now(), made_now()
            await set_aside(made, dead)
            await made.put([queued])
            nowhere = Store("http://127.0.0.1:1", database="x", username="x", password="x")
            desk = Desk(made, store=nowhere)
            assert await desk.state(queued) == "queued"
            assert await desk.state(dead) == "dead"
            with pytest.raises(ApiError) as caught:
                await desk.ask(made_now())
            assert caught.value.row.status == 503
            await nowhere.close()

    asyncio.run(run())


def test_an_event_in_the_spool_is_queued_while_redis_is_away(
    opened: Open, tmp_path: Path, own_redis: RedisServer
) -> None:
    """Safeguard: the spool is looked at first, and like everything else only for those who may see it."""

    async def run() -> None:
        own_redis.kill()
        settings = make_settings(tmp_path, own_redis.url, spool={"redis_timeout": 0.1})
        async with opened() as made, spooling_edge(settings, replays=False) as edge:
            ours, theirs = made_now(OF_ALICE), made_now(project_id="prj_other")
            for one in (ours, theirs):
                assert await edge.appender.append(encode_record(one), "prj_test|1") == ""
            desk = Desk(made, redis=edge.redis, spool=edge.spool)
            queued = {"state": "queued", "time_recorded": ours.time_recorded}
            for grant, receipt in ((OWN, queued), (ALICE, queued), (BOB, UNKNOWN), (OTHER, UNKNOWN)):
                assert await desk.ask(ours, grant) == receipt
            assert await desk.ask(theirs) == UNKNOWN
            with pytest.raises(ApiError):
                await desk.ask(made_now())

    asyncio.run(run())


def test_searches_are_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: a crowd that asks for receipts waits for its turn, briefly; an answer is never a guess."""
    monkeypatch.setattr(receipts, "MAX_SEARCHES", 2)
    monkeypatch.setattr(receipts, "MAX_WAITING", 3)

    async def run() -> None:
        async with opened() as made:
            one = made_now()
            await made.put([one])
            desk = Desk(made)
            results = await asyncio.gather(*(desk.ask(one) for _ in range(20)), return_exceptions=True)
            queued = [each for each in results if isinstance(each, dict)]
            busy = [each for each in results if isinstance(each, ApiError)]
            assert {str(each["state"]) for each in queued} == {"queued"}
            assert (len(queued), len(busy)) == (5, 15)
            assert {each.row.status for each in busy} == {503}

    asyncio.run(run())


def test_erased_from_the_answer_on_and_when_the_row_is_gone(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made, made.draining():
            ours, others = made_now(), made_now(b'{"event_name":"other"}')
            await made.put([ours, others])
            await async_until(made.is_empty, 15)
            desk = Desk(made)
            assert (await desk.ask(ours))["state"] == "stored"
            condition = {"field_name": "event_name", "op": "equals", "value": "test"}
            erasures = Erasures(made.redis, made.store, made.settings.producer.queue)
            report = await erasures.begin(Tombstone("", "prj_test", 0, filters=(condition,)), 0, "")
            assert await desk.ask(ours) == {"state": "erased", "time_recorded": ours.time_recorded}
            assert (await desk.ask(others))["state"] == "stored"
            eraser = make_eraser(made)
            await eraser.step()
            await eraser.step()
            assert await erasures.hidden("prj_test") == ()
            assert await desk.ask(ours) == {"state": "erased", "time_recorded": ours.time_recorded}
            assert report.state == "pending"

    asyncio.run(run())
