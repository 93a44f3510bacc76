"""What an erasure means leaves stream, dead letters, store and files; the ledger follows; nobody else's does."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from app import erasure_scripts as scripts
from app import ledger as ledgers
from app.enrich import Geography
from app.erasures import TooMany
from app.store import Store, StoreRefused
from app.stream import QueueKeys, Record
from tests.eraser_kit import DAY, PROJECT, event, killed_after, mortal, nobody_waits, scene
from tests.marked import PLAIN_CODECS, files_with
from tests.pipeline_kit import assert_conserved, dead_letters, ledger, put_payload
from tests.pipeline_steps import Open, has_inserted, opened
from tests.redis_fixture import RedisServer
from tests.store_fixture import StoreServer
from tests.waiting import async_until
from workers import erase_round
from workers.erased_copies import without_erased
from workers.event_ids import EventIds
from workers.items import Items, make_item
from workers.rows import Rows
from workers.tombstones import Tombstones

__all__ = ["nobody_waits", "opened"]


def test_one_customer_of_many_is_gone_and_it_is_proven(
    opened: Open, redis_server: RedisServer, store_server: StoreServer
) -> None:
    """From the store, its files, the dead letters and Redis's file; with others' events all there."""
    marked = os.urandom(16).hex()
    began = time.time() - 1

    def found() -> list[str]:
        return files_with(marked.encode(), redis_server.directory, store_server.path, since=began)

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            for statement in PLAIN_CODECS:
                await made.store.command(statement)
            names = [f"c{n}" for n in range(19)] + [marked]
            await made.put([event(names[n % 20], ago=(n % 3) * DAY, event_id=f"id{n}") for n in range(200)])
            await made.put([event(marked, event_id="id19"), event(marked, event_id="id19", ago=-3_600_000)])
            await async_until(made.is_empty, 15)
            twice = b'{"event_name":"e","customer_identifier":"%b","a":1,"a":2}' % marked.encode()
            await made.put([msgspec.structs.replace(event(""), body=twice)])
            await async_until(made.is_empty, 15)
            # So small that Redis keeps it in one node with the letter before it.
            where = ledgers.bucket(PROJECT, time.time_ns() // 1_000_000)
            await put_payload(made.redis, made.keys, b"\xc1", f"{where}=1", 1)
            await async_until(made.is_empty, 15)
            before = await ledger(made.redis, made.keys)
            places = " ".join(found())
            assert "appendonly" in places
            assert "data.bin" in places, "the search finds what is there"
            erasure = await here.erase(marked)
            await here.assert_clean()
            report = await here.done(erasure)
            assert msgspec.to_builtins(report.counted) == {"store": 10, "stream": 0, "dead_letters": 1}
            assert set(msgspec.to_builtins(report.remaining).values()) == {0}
            assert report.redis_file == "rewritten"
            moments = [
                report.asked_at,
                report.rows_gone_at or 0,
                report.verified_at or 0,
                report.done_at or 0,
            ]
            assert moments == sorted(moments)
            assert await here.customers() == sorted((f"c{n}", 10) for n in range(19))
            after = await ledger(made.redis, made.keys)
            assert after == before | {"stored": 190, "erased": 11, "dead": 1}
            assert [one.body for one in await dead_letters(made.redis, made.keys)] == [b"\xc1"]
            # Ids of others; of the erased events and their copies, nothing but their ids.
            for table, rows in (("event_ids", 190), ("fates", 13), ("erasures", 0)):
                count = await made.store.ask(f"SELECT count() FROM {table} WHERE project_id = '{PROJECT}'")
                assert count.rows == [[rows]], table
            assert found() == []
            await assert_conserved(made.redis, made.keys)
            await here.assert_clean()
            assert await made.redis.hlen(scripts.OPEN) == 0
            assert await here.eraser.step() is False

    asyncio.run(run())


def test_killed_at_any_statement_it_goes_on_and_counts_once(opened: Open) -> None:
    """One eraser after the other dies, each at a later statement, with an erasure for each.

    A few statements of them here; all of them, a minute and a half: EVENTBUNKER_LONG=1.
    """
    deaths = range(1, 60) if os.environ.get("EVENTBUNKER_LONG") else (5, 10, 12)

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made, store = here.made, mortal(here.made)
            begun: list[str] = []
            try:
                for statements in deaths:
                    customer = f"c{statements}"
                    await made.put(
                        [event(customer, ago=n * DAY, event_id=f"{customer}-{n}") for n in range(3)]
                    )
                    await made.put([event("stays")])
                    await async_until(made.is_empty, 15)
                    begun.append(await here.erase(customer))
                    was_at_work = await killed_after(here, store, statements, is_before=len(begun) % 2 == 0)
                    if not was_at_work:
                        break
            finally:
                await store.close()
            assert was_at_work or statements > 15, "a round has so many"
            reports = [await here.done(erasure) for erasure in begun]
            number = len(begun)
            assert [report.counted.store for report in reports] == [3] * number
            assert await here.customers() == [("stays", number)]
            counts = await ledger(made.redis, made.keys)
            assert counts == {"appended": 4 * number, "erased": 3 * number, "stored": number}
            await assert_conserved(made.redis, made.keys)
            await here.assert_clean()

    asyncio.run(run())


def test_event_ids_of_what_is_erased_are_free_from_the_answer_on(opened: Open) -> None:
    """Also while its row still stands, and when that goes between the two looks of a drain."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            for _ in range(2):  # the second of anna's is a copy
                await made.put([event("anna", event_id="a"), event("bert", event_id="b", n=1)])
            await made.put([event("carl", event_id="c")])
            await async_until(made.is_empty, 15)
            begun = [await here.erase("anna")]
            begun.append(await here.erase(filters=({"field_name": "n", "op": "equals", "value": 1},)))
            again = [event(name, event_id=name[0]) for name in ("anna", "bert", "carl", "anna")]
            rows = Rows()
            items = Items(make_item("1-0", one, Geography(""), rows) for one in again)
            tombstones = Tombstones(made.redis, Geography(""))
            await tombstones.refresh()
            hidden = await tombstones.hidden(items)
            known = await EventIds(made.store, timeout_seconds=5).look_up(items)
            await made.put(again)
            await async_until(made.is_empty, 15)
            for one in begun:
                assert (await here.done(one)).counted.store == 1
            assert await here.customers() == [("anna", 1), ("bert", 1), ("carl", 1)]
            counts = await ledger(made.redis, made.keys)
            assert counts == {"appended": 9, "stored": 3, "erased": 2, "duplicate": 4}
            await here.assert_clean()
            left = await without_erased(made.store, known, hidden, items, timeout_seconds=5)
            assert [len(known[item.event_key]) for item in items] == [1, 1, 1, 1]
            assert [len(left[item.event_key]) for item in items] == [0, 0, 1, 0]

    asyncio.run(run())


def test_many_rows_go_in_rounds_and_filters_choose_any(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await made.put([event(f"c{n % 4}", n=n, event_id=f"id{n}") for n in range(40)])
            await made.put([event("c1", n=1, event_id="id1")])
            await async_until(made.is_empty, 15)
            condition = {"field_name": "n", "op": "less_than", "value": 25}
            erasure = await here.erase("c1", filters=(condition,))
            every = await here.erase(filters=({"field_name": "n", "op": "greater_than", "value": 37},))
            report = await here.done(erasure)
            assert (report.counted.store, (await here.done(every)).counted.store) == (6, 2)
            assert await here.customers() == [("c0", 10), ("c1", 4), ("c2", 9), ("c3", 9)]
            # The copy of an erased event named the customer too.
            named = await made.store.ask("SELECT count() FROM fates WHERE customer_identifier != ''")
            assert named.rows == [[0]]
            await here.assert_clean()

    monkeypatch.setattr(erase_round, "ROWS_A_ROUND", 4)
    asyncio.run(run())


def test_what_was_planned_before_and_what_nobody_can_read(opened: Open) -> None:
    """A batch on its way when the erasure comes is waited for; an unreadable entry goes if it names whom."""

    async def run() -> None:
        held = asyncio.Event()

        async def hold(real: Any) -> None:
            await held.wait()
            await real()

        async with scene(opened) as here:
            made = here.made
            made.store.faults = [hold]
            hour = ledgers.bucket(PROJECT, time.time_ns() // 1_000_000)
            async with made.draining():
                await made.put([event("anna"), event("bert")])
                await async_until(lambda: has_inserted(made, 0), 15)
                erasure = await here.erase("anna", "zoë")
                await here.step()
                report = await here.erasures.report(PROJECT, erasure)
                assert report is not None
                assert report.rows_gone_at is None, "a row may still come"
                held.set()
                await async_until(made.is_empty, 15)
                for junk in (b"\xc1 zo\\u00eb", b"\xc1 bert"):
                    await put_payload(made.redis, made.keys, junk, f"{hour}=2", 2)
                await async_until(made.is_empty, 15)
                assert (await here.done(erasure)).counted.store == 1
                assert await here.customers() == [("bert", 1)]
                assert [one.body for one in await dead_letters(made.redis, made.keys)] == [b"\xc1 bert"]
                assert await ledger(made.redis, made.keys) == {
                    "appended": 6, "stored": 1, "erased": 3, "dead": 2,
                }  # fmt: skip
                await here.assert_clean()
                condition = {"field_name": "event_name", "op": "equals", "value": "none"}
                doubtful = await here.erase(filters=(condition,))
                await here.step(6)
                report = await here.erasures.report(PROJECT, doubtful)
                assert report is not None
                assert (report.state, report.remaining.unreadable) == ("pending", 1)
                await made.redis.delete(made.keys.dead)
                await here.done(doubtful)

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(20 if os.environ.get("EVENTBUNKER_LONG") else 1))
def test_any_order_of_events_erasures_crashes_and_drains_conserves(opened: Open, seed: int) -> None:
    """What was recorded before an erasure of its customer is gone, all else is there, and all is counted."""
    dice = random.Random(seed)
    customers = ["anna", "bert", "carl"]

    async def run() -> None:
        async with scene(opened) as here:
            made, store = here.made, mortal(here.made)
            sent: list[Record] = []
            gone: dict[str, int] = {}
            begun: list[str] = []
            for _ in range(25):
                match dice.choice(["put", "put", "late", "erase", "drain", "step", "killed"]):
                    case "put" | "late" as how:
                        ago = dice.choice([0, 1, 10, 2 * DAY]) if how == "late" else 0
                        some = [event(dice.choice(customers), ago=ago) for _ in range(dice.randint(1, 5))]
                        sent += some
                        await made.put(some)
                    case "erase":
                        customer = dice.choice(customers)
                        begun.append(await here.erase(customer))
                        report = await here.erasures.report(PROJECT, begun[-1])
                        gone[customer] = report.up_to if report else 0
                    case "drain":
                        async with made.draining():
                            await async_until(made.is_empty, 15)
                    case "step":
                        await here.eraser.step()
                        await made.redis.delete(scripts.ERASER)
                    case "killed":
                        await killed_after(here, store, dice.randint(1, 25), is_before=dice.random() < 0.5)
            async with made.draining():
                await async_until(made.is_empty, 15)
                for erasure in begun:
                    await here.done(erasure)
            await store.close()
            left = Counter(
                customer
                for one in sent
                for customer in [msgspec.json.decode(one.body)["customer_identifier"]]
                if one.time_recorded > gone.get(customer, 0)
            )
            assert dict(await here.customers()) == dict(left)
            counts = await ledger(made.redis, made.keys)
            assert counts.get("stored", 0) == left.total()
            assert counts.get("erased", 0) == len(sent) - left.total()
            await assert_conserved(made.redis, made.keys)
            await here.assert_clean()

    asyncio.run(run())


def test_a_thousand_customers_are_one_pass_and_more_must_wait(opened: Open) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await made.put([event(f"c{n}") for n in range(500)])
            await async_until(made.is_empty, 15)
            begun = [await here.erase(f"c{n}") for n in range(5)]
            begun.append(await here.erase(*(f"c{n}" for n in range(5, 450))))
            condition = {"field_name": "n", "op": "equals", "value": 1}
            await here.erase("none", owner="of one customer", filters=(condition,))
            with pytest.raises(TooMany):  # the other half is the project's own
                await here.erase("none", owner="of one customer", filters=(condition,))
            await here.erase(filters=(condition,))
            with pytest.raises(TooMany):
                await here.erase(filters=(condition,))
            with pytest.raises(TooMany):
                await here.erase(*("x" * 200 for _ in range(400)))
            begun.append(await here.erase("c450"))
            await here.step(2)
            assert len(await here.customers()) == 49
            rounds = await made.redis.get(scripts.ROUNDS)
            for one in begun:
                await here.done(one)
            assert int(rounds or 0) <= 4
            assert sum([(await here.done(one)).counted.store for one in begun]) == 451
            await here.assert_clean()

    asyncio.run(run())


@pytest.mark.parametrize("length", [36, 1])
def test_as_many_customers_as_may_wait_are_erased_and_queried_meanwhile(opened: Open, length: int) -> None:
    """Safeguard: the bounds of a statement, for the longest names and for the most."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            names = [f"{n:x}".rjust(length, "-") for n in range(20_000)]
            await made.put([event(names[n], event_id=f"id {n}") for n in range(3)])
            await async_until(made.is_empty, 15)
            begun = [await here.erase(names[0], *names[2:1000])]
            for at in range(1000, len(names), 100):
                try:
                    begun.append(await here.erase(*names[at : at + 100]))
                except TooMany:
                    break
            else:
                raise AssertionError("no bound was met")
            everything = {"field_name": "event_name", "op": "equals", "value": "e"}
            _, matched = await here.count(filters=[everything])  # with all that a query looks away from
            assert matched.events == 1
            # And in what a drain asks when an event_id comes again.
            await made.put([event(names[n], event_id=f"id {n}") for n in range(2)])
            await async_until(made.is_empty, 15)
            await here.rows_gone(begun[0])
            assert await here.customers() == [(names[0], 1), (names[1], 1)]
            for one in begun:
                assert (await here.done(one)).counted.store == (2 if one == begun[0] else 0)
            await here.assert_clean()

    asyncio.run(run())


def test_what_the_store_does_not_choose_holds_up_nobody_else(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await made.put([event(f"c{n}", n=n) for n in range(3)])
            await async_until(made.is_empty, 15)
            bad = await here.erase(filters=({"field_name": "n", "op": "equals", "value": 1},))
            good = await here.erase("c0")
            carry_out = Store.command

            async def refuse(self: Store, sql: str, *arguments: Any, **options: Any) -> None:
                if "fields.`n`" in sql:
                    raise StoreRefused(62, "Max query size exceeded")
                await carry_out(self, sql, *arguments, **options)

            monkeypatch.setattr(Store, "command", refuse)
            assert (await here.done(good)).counted.store == 1
            report = await here.erasures.report(PROJECT, bad)
            assert report is not None
            assert (report.state, report.rows_gone_at) == ("pending", None)
            monkeypatch.setattr(Store, "command", carry_out)
            assert (await here.done(bad)).counted.store == 1
            assert await here.customers() == [("c2", 1)]
            await here.assert_clean()

    asyncio.run(run())


def test_the_moment_lies_behind_every_edges_clock_and_before_the_answer(opened: Open) -> None:
    """One edge is ahead of Redis's clock, one behind: what either has answered is meant, what comes is not."""

    async def run() -> None:
        async with scene(opened) as here:
            made = here.made
            members, about = QueueKeys(made.settings.producer.queue).alive("edge")
            for name, ahead in (("fast", 700), ("slow", -300)):
                said = {"place": "x", "spooled": 0, "ahead": ahead}
                await made.redis.hset(about, name, msgspec.json.encode(said))
                await made.redis.zadd(members, {name: 2**42})
            before = time.time_ns() // 1_000_000
            erasure = await here.erase("anna")
            after = time.time_ns() // 1_000_000
            report = await here.erasures.report(PROJECT, erasure)
            assert report is not None
            assert report.up_to >= before + 700, "the fast edge may have answered with this"
            assert report.up_to < after - 300, "the slow edge will not answer with this any more"

    asyncio.run(run())
