"""Dead letters against a real Redis and the real engine: put back, given up, found; nothing twice or lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import TypeVar

import msgspec
import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from app import dead as deads
from app import dead_letter, ledger, redis_client
from app.dead import DeadLetters
from app.dead_letter import DeadLetter, Found, Wanted
from app.store import StoreUnavailable
from app.stream import Record, choose_partition, split_group
from tests.pipeline_kit import (
    POISON,
    Bench,
    assert_conserved,
    dead_letters,
    entries,
    put_payload,
    record,
)
from tests.pipeline_kit import ledger as read_ledger
from tests.pipeline_steps import Open, assert_stored, opened, refusing
from tests.waiting import async_until
from workers import items, plan

__all__ = ["opened"]

T = TypeVar("T")

BAD_DATA = 117  # the engine's code for a row that it cannot take
EVERY = Wanted()


def letters_of(made: Bench) -> DeadLetters:
    return DeadLetters(made.redis, made.settings)


async def every(letters: DeadLetters, wanted: Wanted = EVERY) -> list[Found]:
    return (await letters.page(wanted, "", 1000)).found


async def set_aside(made: Bench, records: Sequence[Record]) -> list[Found]:
    """Letters of good events, each refused by the store once."""
    made.store.faults = [refusing(BAD_DATA) for _ in records]
    for one in records:
        await made.put([one])
        async with made.draining():
            await async_until(made.is_empty, 10, "the letter")
    return await every(letters_of(made))


async def dead(made: Bench, number: int) -> bool:
    return (await read_ledger(made.redis, made.keys)).get("dead", 0) == number and await made.is_empty()


async def fates(made: Bench) -> list[list[object]]:
    sql = (
        "SELECT lower(hex(unique_req_id)), project_id, customer_identifier, fate FROM fates FINAL ORDER BY 1"
    )
    return (await made.store.ask(sql)).rows


async def gathered(work: list[Coroutine[object, object, T]]) -> list[T]:
    return await asyncio.gather(*work)


def test_a_replayed_event_is_stored_once_whoever_replays_it_how_often(opened: Open) -> None:
    """Safeguard: REPLAY looks before it adds. Two operators, with a connection each, all at once."""

    async def run() -> None:
        async with opened() as made:
            found = await set_aside(made, [record() for _ in range(3)])
            assert [one.letter.reason for one in found] == ["simulated"] * 3
            clients = [redis_client.connect(made.settings) for _ in range(4)]
            replayed = await asyncio.gather(
                *(DeadLetters(client, made.settings).replay(found) for client in clients for _ in range(3))
            )
            assert sum(one.done for one in replayed) == 3
            assert await made.redis.xlen(made.keys.entries) == 3
            await assert_conserved(made.redis, made.keys)
            for client in clients:
                await client.aclose()
            async with made.draining():
                await assert_stored(made, 3)
            counts = await read_ledger(made.redis, made.keys)
            assert counts == {"appended": 3, "dead": 0, "stored": 3}
            assert (await letters_of(made).replay(found)).done == 0
            assert not await made.redis.exists(made.keys.dead_ids)

    asyncio.run(run())


def test_one_that_dies_again_is_a_letter_again_and_a_replay_of_all_ends(opened: Open) -> None:
    """Safeguard: pages show what was there at the first one, however fast it dies again."""

    async def run() -> None:
        async with opened() as made, made.draining():
            poisoned = [record(POISON) for _ in range(5)]
            await made.put([record(), *poisoned])
            await async_until(lambda: dead(made, 5), 15, "five letters")
            letters, cursor, done = letters_of(made), "", 0
            for _ in range(5):
                page = await letters.page(EVERY, cursor, 1)
                done += (await letters.replay(page.found)).done
                await async_until(lambda: dead(made, 5), 15, "its death")
                cursor = page.cursor
            assert not (await letters.page(EVERY, cursor, 1)).found
            assert done == 5
            found = await every(letters)
            assert {one.unique_req_id for one in found} == {one.unique_req_id.hex() for one in poisoned}
            assert await made.redis.hlen(made.keys.dead_ids) == 5
            assert await letters.find(found[0].unique_req_id) == found[0]
            await assert_stored(made, 1)

    asyncio.run(run())


def test_a_purged_event_is_erased_and_the_store_can_tell(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            kept, gone = record(), record(b'{"event_name":"test","customer_identifier":"alice"}')
            found = {one.unique_req_id: one for one in await set_aside(made, [kept, gone])}
            letters = letters_of(made)
            chosen = [found[gone.unique_req_id.hex()]]
            assert await letters.purge(chosen, made.store) == 1
            assert await letters.purge(chosen, made.store) == 0
            assert await fates(made) == [[gone.unique_req_id.hex(), "prj_test", "alice", "erased"]]
            assert [one.unique_req_id for one in await every(letters)] == [kept.unique_req_id.hex()]
            assert await read_ledger(made.redis, made.keys) == {"appended": 2, "dead": 1, "erased": 1}
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


@pytest.mark.parametrize("body", [POISON, b"no JSON"], ids=["refused", "without a row"])
def test_letters_that_are_put_back_too_early_stop_nobody(
    opened: Open, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Safeguard: however many die again, that is no news, and no reason to halt."""

    async def run() -> None:
        async with opened() as made, made.draining():
            await made.put([record(body) for _ in range(9)] + [record() for _ in range(9)])
            await async_until(lambda: dead(made, 9), 15, "nine letters")
            monkeypatch.setattr(plan, "MAX_DEAD_ROWS", 3)
            letters = letters_of(made)
            assert (await letters.replay(await every(letters))).done == 9
            await made.put([record()])
            await async_until(lambda: dead(made, 9), 15, "nine letters again")
            await assert_stored(made, 10)

    asyncio.run(run())


def test_replay_and_purge_at_once_leave_one_fate_for_each(opened: Open) -> None:
    """Safeguard: whichever script comes first wins; the other finds nothing."""

    async def run() -> None:
        async with opened() as made:
            found = await set_aside(made, [record() for _ in range(6)])
            letters = letters_of(made)
            purges = [letters.purge([one], made.store) for one in found]
            purges += [letters.remove([one]) for one in found]
            replays = [letters.replay([one]) for one in found for _ in range(2)]
            erased, put_back = await asyncio.gather(gathered(purges), gathered(replays))
            purged, replayed = sum(erased), sum(one.done for one in put_back)
            assert replayed + purged == 6
            async with made.draining():
                await assert_stored(made, replayed)
            counts = await read_ledger(made.redis, made.keys)
            assert (counts["dead"], counts.get("erased", 0)) == (0, purged)

    asyncio.run(run())


def test_nothing_is_purged_that_the_store_was_not_told_of(opened: Open) -> None:
    """Safeguard: the row in the store comes first; a purge that was cut in between is simply repeated."""

    async def run() -> None:
        async with opened() as made:
            found = await set_aside(made, [record()])
            letters = letters_of(made)

            async def lost(_real: object) -> None:
                raise StoreUnavailable("away")

            made.store.faults = [lost]
            with pytest.raises(StoreUnavailable):
                await letters.purge(found, made.store)
            assert len(await every(letters)) == 1
            assert await fates(made) == []

            async def told_then_lost(real: object) -> None:
                await real()  # type: ignore[operator]
                raise StoreUnavailable("lost")

            made.store.faults = [told_then_lost]
            with pytest.raises(StoreUnavailable):
                await letters.purge(found, made.store)
            assert len(await every(letters)) == 1
            assert await letters.purge(found, made.store) == 1
            assert len(await fates(made)) == 1
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())


def test_an_unreadable_entry_goes_back_as_it_was_and_an_upgrade_reads_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened() as made:
            read = split_group

            def unreadable(_payload: bytes) -> list[Record]:
                raise msgspec.DecodeError("of a version to come")

            monkeypatch.setattr(items, "split_group", unreadable)
            await made.put([record() for _ in range(4)])
            [(_, fields)] = await entries(made.redis, made.keys.entries)
            async with made.draining():
                await async_until(lambda: dead(made, 4), 10, "the letter")
            letters = letters_of(made)
            [found] = await every(letters)
            assert found.unique_req_id == ""
            assert found.describe().events == 4
            assert found.letter.body == fields[b"r"]
            assert dead_letter.split_reason(found.letter) == ("unreadable entry", "of a version to come")
            assert await letters.find(found.place) == found
            assert await every(letters, Wanted("prj_test")) == []

            monkeypatch.setattr(items, "split_group", read)
            assert (await letters.replay([found])).done == 1
            put_back = {**fields, b"dead": b"1"}
            assert [one for _, one in await entries(made.redis, made.keys.entries)] == [put_back]
            async with made.draining():
                await assert_stored(made, 4)

    asyncio.run(run())


def test_bytes_that_are_nobodys_are_dead_and_can_be_purged(opened: Open) -> None:
    """Safeguard: counts travel with the entry; where they are damaged too, nothing is counted anywhere."""

    async def run() -> None:
        async with opened() as made:
            await put_payload(made.redis, made.keys, b"\xc1garbage", "prj_test|1=2;prj_other|1=1", 3)
            await made.redis.xadd(made.keys.entries, {"r": b"\xc1", "c": b"nonsense=x"})
            async with made.draining():
                await async_until(lambda: dead(made, 3), 10, "the letters")
            letters = letters_of(made)
            found = await every(letters)
            assert [one.describe().events for one in found] == [3, 0]
            await assert_conserved(made.redis, made.keys)
            assert (await letters.replay(found)).done == 2
            async with made.draining():
                await async_until(lambda: dead(made, 3), 10, "their death")
            assert await letters.purge(await every(letters), made.store) == 2
            assert await fates(made) == []
            await assert_conserved(made.redis, made.keys)
            assert await read_ledger(made.redis, made.keys) == {"appended": 3, "dead": 0, "erased": 3}

    asyncio.run(run())


def test_a_full_redis_takes_no_letter_back_but_lets_letters_go(opened: Open) -> None:
    """Safeguards: the high-water marks; an append that comes first in REPLAY; a deletion that does in PURGE."""

    async def run() -> None:
        async with opened() as made:
            found = await set_aside(made, [record(), record()])
            letters = letters_of(made)
            assert await letters.refusal() == ""
            before = await read_ledger(made.redis, made.keys)
            await made.redis.config_set("maxmemory", "100kb")
            try:
                assert "of its memory" in await letters.refusal()
                with pytest.raises(ResponseError) as caught:
                    await letters.replay(found)
                assert isinstance(caught.value, OutOfMemoryError) or "OOM" in str(caught.value)
                assert await read_ledger(made.redis, made.keys) == before
                assert await every(letters) == found
                assert await letters.purge(found[:1], made.store) == 1
            finally:
                await made.redis.config_set("maxmemory", "0")
            assert (await letters.replay(found)).done == 1
            async with made.draining():
                await assert_stored(made, 1)

    asyncio.run(run())


def test_a_stream_at_its_mark_takes_no_letter_back(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            producer = msgspec.structs.replace(made.settings.producer, max_backlog=2)
            letters = DeadLetters(made.redis, msgspec.structs.replace(made.settings, producer=producer))
            await made.put([record()])
            assert await letters.refusal() == ""
            await made.put([record()])
            assert "high-water mark" in await letters.refusal()

    asyncio.run(run())


def test_pages_show_each_letter_once_with_all_filters(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: LETTERS_A_SCAN, the bound of one page, among many letters of others."""
    monkeypatch.setattr(deads, "LETTERS_A_SCAN", 40)

    async def run() -> None:
        async with opened() as made:
            letters = letters_of(made)
            names: dict[str, list[str]] = {"prj_a": [], "prj_b": []}
            for number in range(200):
                project = "prj_a" if number % 50 == 7 else "prj_b"
                one = msgspec.structs.replace(record(), project_id=project)
                names[project].append(one.unique_req_id.hex())
                letter = DeadLetter(f"Reason {number % 2}", number, "1-0", one)
                await made.redis.xadd(made.keys.dead, {"d": dead_letter.encode(letter)}, id=f"{number + 1}-0")
            for project, expected in names.items():
                seen: list[str] = []
                pages, cursor = 0, ""
                while pages == 0 or cursor:
                    page = await letters.page(Wanted(project), cursor, 30)
                    pages, cursor = pages + 1, page.cursor
                    seen += [one.unique_req_id for one in page.found]
                assert seen == expected
                assert pages >= 200 / (40 + deads.LETTERS_A_READ)
            monkeypatch.setattr(deads, "LETTERS_A_SCAN", 2000)
            odd = await every(letters, Wanted(reason="reason 1", since_ms=101))
            assert [one.letter.at for one in odd] == list(range(101, 200, 2))
            for cursor in ("x", "0.1-0", "0.1-0.5.7"):
                with pytest.raises(ValueError, match="cursor"):
                    await letters.page(EVERY, cursor, 1)

    asyncio.run(run())


def test_an_address_that_is_none_is_refused_and_an_index_may_lag(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            [found] = await set_aside(made, [record()])
            letters = letters_of(made)
            for address in ("", "0/1", found.unique_req_id.upper(), found.unique_req_id[:31], "0/1-0 "):
                with pytest.raises(ValueError, match="is neither"):
                    await letters.find(address)
            assert await letters.find("255/1-0") is None
            assert await letters.find("0/1-0") is None
            await made.redis.xdel(made.keys.dead, found.id)
            assert await letters.find(found.unique_req_id) is None
            await made.redis.xadd(made.keys.dead, {"d": b"\xc1"})
            [foreign] = await every(letters)
            assert foreign.describe().message.startswith("no dead letter of ours")

    asyncio.run(run())


def test_a_letter_whose_copies_now_go_elsewhere_stays(opened: Open) -> None:
    """Safeguard: all copies of one event_id have one owner, also when the number of partitions has changed."""

    async def run() -> None:
        async with opened() as made:
            away = next(
                name for name in (f"id{n}" for n in range(99)) if choose_partition(2, "prj_test", name, "")
            )
            body = json.dumps({"event_name": "test", "event_id": away}).encode()
            header = msgspec.structs.replace(record(), event_id=away)
            found = await set_aside(made, [record(), record(body), header])
            producer = msgspec.structs.replace(made.settings.producer, shards=2)
            letters = DeadLetters(made.redis, msgspec.structs.replace(made.settings, producer=producer))
            replayed = await letters.replay(found)
            assert replayed.done == 1
            assert [name for name, _ in replayed.refused] == [one.unique_req_id for one in found[1:]]
            assert (await letters_of(made).replay(found)).done == 2
            assert await dead_letters(made.redis, made.keys) == []

    asyncio.run(run())


def test_counts_are_those_that_were_added_to_dead() -> None:
    one = record()
    expected = Counter({ledger.bucket("prj_test", one.time_recorded): 1})
    assert dead_letter.counts(DeadLetter("x", 0, "1-0", one)) == expected
    assert dead_letter.counts(DeadLetter("x", 0, "1-0", None, b"", "a|1=2;b|2=3")) == {"a|1": 2, "b|2": 3}
    assert dead_letter.counts(DeadLetter("x", 0, "1-0", None, b"", "a|1=x")) == {}
