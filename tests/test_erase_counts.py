"""What an erasure says that it `matched` and `counted`: every interleaving in which the two could differ, forced.

Asked for as a client does (`Scene.ask`): the store is counted before the tombstone is written.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app import erasure_scripts as scripts
from app import fates, registry_scripts, tombstone
from app.dead import DeadLetters
from app.erasure_report import Counted, Open, Report, encode_open, encode_report
from app.fates import Fate
from app.stream import Record
from tests.eraser_kit import DAY, PROJECT, Killed, Scene, event, killed_after, mortal, nobody_waits, scene
from tests.pipeline_kit import Bench, assert_conserved, ledger, make_project_eraser
from tests.pipeline_steps import Open as OpenBench
from tests.pipeline_steps import has_inserted, opened, refusing
from tests.waiting import async_until
from workers import erase_round
from workers.erase_round import Round, Rounds

__all__ = ["nobody_waits", "opened"]


async def put(here: Scene, *events: Record) -> None:
    """Stored, or dead letters, when it returns."""
    await here.made.put(events)
    await async_until(here.made.is_empty, 15)


async def erased(here: Scene) -> int:
    return (await ledger(here.made.redis, here.made.keys)).get("erased", 0)


def counted(report: Report) -> tuple[int, int, int]:
    return report.counted.store, report.counted.stream, report.counted.dead_letters


def test_what_was_counted_is_meant_though_a_clock_has_stepped_back(opened: OpenBench) -> None:
    """Two seconds are bridged; what a clock of next year has recorded is neither counted nor erased."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            await put(here, event("anna"), event("anna", ago=-1_500), event("anna", ago=-400 * DAY))
            report = await here.ask("anna")
            assert report.matched == 2
            done = await here.done(report.erasure_id)
            assert counted(done) == (2, 0, 0)
            assert await here.customers() == [("anna", 1)]
            assert await erased(here) == 2
            await here.assert_clean()

    asyncio.run(run())


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_row_that_is_not_acknowledged_yet_is_counted_once(opened: OpenBench, is_killed: bool) -> None:
    """In the store and in the stream at the first count; its drain goes on, or is killed and another takes over."""

    async def run() -> None:
        held = asyncio.Event()

        async def hold(real: Any) -> None:
            await held.wait()
            await real()

        async with scene(opened) as here:
            made = here.made

            async def at_once(real: Any) -> None:
                await real()

            made.store.faults = [at_once, hold]  # the rows, and then their event ids
            async with made.draining():
                await made.put([event("anna", event_id="a"), event("bert", event_id="b")])
                await async_until(lambda: has_inserted(made, 1), 15)
                report = await here.ask("anna")
                assert report.matched == 1
                assert await made.redis.xlen(made.keys.entries) == 1
                await here.step()
                if not is_killed:
                    held.set()
                    await async_until(made.is_empty, 15)
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
                assert counted(await here.done(report.erasure_id)) == (1, 0, 0)
            assert await here.customers() == [("bert", 1)]
            assert await ledger(made.redis, made.keys) == {"appended": 2, "stored": 1, "erased": 1}
            await here.assert_clean()

    asyncio.run(run())


def test_a_plan_that_stored_nothing_before_is_counted_as_stored_later(opened: OpenBench) -> None:
    """Counted, more than matched: what was planned before the erasure reaches the store after it."""

    async def run() -> None:
        async with scene(opened) as here:
            made = here.made

            held = asyncio.Event()

            async def hold(real: Any) -> None:
                await held.wait()
                await real()

            made.store.faults = [hold]
            async with made.draining():
                await made.put([event("anna")])
                await async_until(lambda: has_inserted(made, 0), 15)
                report = await here.ask("anna")
                assert report.matched == 0
                await made.put([event("anna", ago=60_000)])
                held.set()
                await async_until(made.is_empty, 15)
                assert counted(await here.done(report.erasure_id)) == (1, 1, 0)
            assert await erased(here) == 2

    asyncio.run(run())


def test_what_several_erasures_mean_is_counted_by_the_first(opened: OpenBench, monkeypatch: Any) -> None:
    """In the store, by customer and by filter, and on its way; so the second matches as few as it counts."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            number = {"field_name": "n", "op": "equals", "value": 1}
            await put(here, *(event("anna", n=n) for n in (0, 1, 2)), event("bert", n=1))
            reports = [
                await here.ask("anna"),
                await here.ask(filters=[number]),
                await here.ask("anna", "bert"),
            ]
            assert [one.matched for one in reports] == [3, 1, 0]
            await put(here, event("anna", n=1, ago=60_000), event("bert", n=1, ago=60_000))
            done = [await here.done(one.erasure_id) for one in reports]
            # Those by filters come after those by customers on the way to the store.
            assert [counted(one) for one in done] == [(3, 1, 0), (1, 0, 0), (0, 1, 0)]
            assert await erased(here) == 6
            await here.assert_clean()

    asyncio.run(run())


def test_two_that_are_asked_for_at_the_same_moment_match_what_one_of_them_counts(opened: OpenBench) -> None:
    """The one difference that is left, which docs/erase.md explains: neither has seen the other's tombstone."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            await put(here, event("anna"), event("anna"))
            wanted = [await here.count("anna"), await here.count("anna")]
            reports = [await here.begin(one) for one in wanted]
            assert [one.matched for one in reports] == [2, 2]
            done = [await here.done(one.erasure_id) for one in reports]
            assert [counted(one) for one in done] == [(2, 0, 0), (0, 0, 0)]
            assert await erased(here) == 2

    asyncio.run(run())


@pytest.mark.parametrize("statements", [9, 10, 11])
def test_overlapping_erasures_count_once_whenever_the_eraser_dies(opened: OpenBench, statements: int) -> None:
    """What is remembered of a row is written again after a crash, and must say the same."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            store = mortal(here.made)
            number = {"field_name": "n", "op": "greater_than", "value": -1}
            await put(here, *(event(f"c{n % 3}", n=n) for n in range(30)))
            wanted = [
                await here.count("c0", "c1"),
                await here.count(filters=[number]),
                await here.count("c2"),
            ]
            reports = [await here.begin(one) for one in wanted]
            try:
                assert await killed_after(here, store, statements, is_before=False)
            finally:
                await store.close()
            done = [await here.done(one.erasure_id) for one in reports]
            assert [counted(one) for one in done] == [(20, 0, 0), (10, 0, 0), (0, 0, 0)]
            assert await erased(here) == 30
            await here.assert_clean()

    asyncio.run(run())


def test_a_dead_letter_that_is_replayed_while_it_is_given_up_is_counted_once(
    opened: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            made.store.faults = [refusing(117)]
            one = event("anna")
            await put(here, one)
            assert made.store.faults == []
            letters = DeadLetters(made.redis, made.settings)
            write = fates.write

            async def write_and_replay(*arguments: Any, **options: Any) -> None:
                await write(*arguments, **options)
                found = await letters.find(one.unique_req_id.hex())
                assert found is not None
                assert (await letters.replay([found])).done == 1
                monkeypatch.setattr(fates, "write", write)

            report = await here.ask("anna")
            monkeypatch.setattr(fates, "write", write_and_replay)
            done = await here.done(report.erasure_id)
            assert (report.matched, counted(done)) == (0, (0, 1, 0))
            assert await ledger(made.redis, made.keys) == {"appended": 1, "erased": 1, "dead": 0}
            await here.assert_clean()

    asyncio.run(run())


def test_what_is_left_of_a_fate_hides_no_place_where_the_event_was(opened: OpenBench) -> None:
    """A letter that was replayed while it was purged: erased in the stream, and its fate in the store later."""

    async def run() -> None:
        async with scene(opened) as here:
            one = event("anna")
            purged = Fate(one.unique_req_id, PROJECT, "anna", "erased", "purged", one.time_recorded)
            await fates.write(here.made.store, [purged], timeout_seconds=10)
            report = await here.ask("anna")
            async with here.made.draining():
                await here.made.put([one])
                await async_until(here.made.is_empty, 15)
                assert await erased(here) == 1
                assert counted(await here.done(report.erasure_id)) == (0, 1, 0)

    asyncio.run(run())


def test_a_dead_letter_that_was_replayed_while_it_was_purged_counts_as_the_row_that_it_is(
    opened: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store remembers it as purged, with its customer, and holds it: matched, and counted where it was,
    in whichever order the engine reads the two."""
    choose = Rounds._choose

    async def choose_and_merge(self: Rounds, made: Round) -> Round:
        chosen = await choose(self, made)
        await self._store.command("OPTIMIZE TABLE erasing FINAL")
        return chosen

    monkeypatch.setattr(Rounds, "_choose", choose_and_merge)

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            one = event("anna")
            await put(here, one, event("anna"))
            purged = Fate(one.unique_req_id, PROJECT, "anna", "erased", "purged", one.time_recorded)
            await fates.write(here.made.store, [purged], timeout_seconds=10)
            report = await here.ask("anna")
            done = await here.done(report.erasure_id)
            assert (report.matched, counted(done)) == (2, (2, 0, 0))
            assert await erased(here) == 2
            named = await here.made.store.ask("SELECT count() FROM fates WHERE customer_identifier != ''")
            assert named.rows == [[0]]

    asyncio.run(run())


def test_a_round_that_is_full_keeps_hidden_what_it_has_left(
    opened: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erasures that share a statement share its limit: that none of one's rows was chosen says nothing."""
    monkeypatch.setattr(erase_round, "ROWS_A_ROUND", 4)

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            names = [f"c{n}" for n in range(4)]
            await put(here, *(event(name) for name in names for _ in range(3)))
            reports = {name: await here.ask(name) for name in names}
            here.eraser._next_proof = float("inf")  # which would find the rows, and hide them again
            for _ in range(6):
                await here.step(1)
                hidden = await here.erasures.hidden(PROJECT)
                still = {customer for one in hidden for customer in one.customers or ()}
                assert {str(name) for name, _ in await here.customers()} <= still
            assert await here.customers() == []
            here.eraser._next_proof = 0
            for report in reports.values():
                assert (report.matched, counted(await here.done(report.erasure_id))) == (3, (3, 0, 0))
            await here.assert_clean()

    asyncio.run(run())


def test_what_was_counted_stays_told_when_the_store_has_forgotten_it(opened: OpenBench) -> None:
    """A spool may keep the proof waiting for longer than fates are kept."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await put(here, event("anna"), event("anna"))
            report = await here.ask("anna")
            await put(here, event("anna", ago=60_000))
            await here.rows_gone(report.erasure_id)
            await made.store.command("TRUNCATE TABLE fates")
            done = await here.done(report.erasure_id)
            assert (report.matched, counted(done)) == (2, (2, 1, 0))

    asyncio.run(run())


async def delete_project(made: Bench) -> str:
    """As `app.accounts` does; the id of its erasure."""
    one = tombstone.of_project("era_0190000000001111111111111111", PROJECT)
    await made.redis.hset(registry_scripts.project(PROJECT), "erasure", one.id)
    await made.redis.xadd(scripts.LOG, {"t": tombstone.encode(one)})
    await made.redis.hset(scripts.OPEN, one.id, encode_open(Open(PROJECT, 1, "project")))
    report = Report(erasure_id=one.id, project_id=PROJECT, asked_at=1, up_to=1)
    await made.redis.set(scripts.report(one.id), encode_report(report))
    await made.redis.sadd(registry_scripts.DELETED, PROJECT)
    return one.id


@pytest.mark.parametrize("statements", [0, 1, 3, 4])
def test_a_project_that_is_deleted_while_customers_are_erased_counts_what_they_do_not(
    opened: OpenBench, statements: int
) -> None:
    """One customer's rows are gone by then, another's are not. Its eraser dies after so many statements, too."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made, store = here.made, mortal(here.made)
            await put(here, *(event(name) for name in ("anna", "anna", "bert", "carl", "carl", "carl")))
            await put(here, event("anna", ago=60_000))
            first = await here.ask("anna")
            await put(here, event("anna", ago=60_000))
            await here.rows_gone(first.erasure_id)
            second = await here.ask("bert")
            project = await delete_project(made)
            await here.step()  # which leaves the second's rows to the project
            if statements:
                store.left, store.is_before = statements, False
                with pytest.raises(Killed):
                    await make_project_eraser(made.redis, store, here.reader).erase_due()
            await put(here, event("carl"))
            store.left = -1
            assert await make_project_eraser(made.redis, store, here.reader).erase_due() == [PROJECT]
            await store.close()
            done = [await here.done(one) for one in (first.erasure_id, second.erasure_id, project)]
            assert [one.matched for one in done] == [3, 1, 4]
            assert [one.counted for one in done] == [Counted(3, 1), Counted(), Counted(4, 1)]
            assert await here.customers() == []
            assert await erased(here) == 9
            await assert_conserved(made.redis, made.keys)

    asyncio.run(run())
