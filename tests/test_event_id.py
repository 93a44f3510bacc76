"""The same event id in the same project within seven days is one event, whatever crashes in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise

import pytest

from app import ledger as ledgers
from app.enrich import Geography
from app.partition import Partition
from app.store import Store, StoreUnavailable
from app.stream import Record
from tests.pipeline_kit import Bench, Fault, assert_conserved, dead_letters, ledger, record
from tests.pipeline_steps import Open, Real, hang, insert_then_hang, opened
from tests.waiting import async_until
from workers import event_ids, verdict
from workers import plan as plans
from workers.items import Items, make_item
from workers.migrate import read_migrations
from workers.rows import Rows, event_key
from workers.verdict import WINDOW_MS, Copy, find_duplicates

__all__ = ["opened"]

DAY_MS = 86_400_000


def now_ms() -> int:
    return record().time_recorded


def event(
    event_id: str, *, recorded: int = 0, project: str = "prj_test", header: bool = False, is_bad: bool = False
) -> Record:
    """One copy. `header`: the id comes from Idempotency-Key. `is_bad`: the store refuses the row."""
    fields = '"event_name":"test","value":1' + (',"value":2' if is_bad else "")
    body = "{" + fields + ("" if header else f',"event_id":{json.dumps(event_id)}') + "}"
    one = record(body.encode(), recorded=recorded)
    return Record(
        *(one.request_id, one.index, one.time_recorded, project, "", "", "", ""),
        *(one.body, event_id if header else ""),
    )


async def ids_in_store(made: Bench) -> list[str]:
    rows = (await made.store.ask("SELECT lower(hex(unique_req_id)) FROM events ORDER BY time_recorded")).rows
    return [str(row[0]) for row in rows]


async def settled(made: Bench, *, stored: int, duplicates: int, dead: int = 0) -> None:
    """Everything is acknowledged; store, ledger and fates agree with these numbers."""
    await async_until(made.is_empty, 15, "an empty stream")
    assert await made.store.stored() == (stored, stored)
    counts = await ledger(made.redis, made.keys)
    wanted = {ledgers.STORED: stored, ledgers.DUPLICATE: duplicates, ledgers.DEAD: dead}
    assert {fate: counts.get(fate, 0) for fate in wanted} == wanted
    await assert_conserved(made.redis, made.keys)
    fates = await made.store.ask(
        "SELECT unique_req_id, count() FROM fates FINAL WHERE fate = 'duplicate' GROUP BY unique_req_id"
    )
    assert len(fates.rows) == duplicates


def hex_of(one: Record) -> str:
    return one.unique_req_id.hex()


# The rule, without any store.


def items_of(*records: Record) -> Items:
    rows = Rows()
    return Items(make_item("1-0", one, Geography(""), rows) for one in records)


@pytest.mark.parametrize(
    ("apart", "is_copy"), [(0, True), (WINDOW_MS, True), (WINDOW_MS + 1, False), (30 * DAY_MS, False)]
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("is_stored", [True, False], ids=["of a stored one", "in one batch"])
def test_copies_are_recorded_at_most_seven_days_apart(
    apart: int, is_copy: bool, sign: int, is_stored: bool
) -> None:
    first, second = event("a", recorded=now_ms()), event("a", recorded=now_ms())
    second = event("a", recorded=first.time_recorded + sign * apart)
    if is_stored:
        items = items_of(second)
        known = {event_key("prj_test", "a"): [Copy(first.time_recorded, hex_of(first))]}
    else:
        items, known = items_of(first, second), {}
    row = len(items) - 1
    found = find_duplicates(items, range(len(items)), known)
    assert found == ([(row, hex_of(first))] if is_copy else [])


def test_seven_days_count_from_the_copy_that_is_stored() -> None:
    """Otherwise a client that repeats for ever would be heard once only."""
    began = now_ms()
    copies = [event("a", recorded=began + days * DAY_MS) for days in (0, 6, 8, 14, 16)]
    found = find_duplicates(items_of(*copies), range(5), {})
    assert found == [(1, hex_of(copies[0])), (3, hex_of(copies[2]))]


def test_projects_and_events_without_an_id_are_strangers() -> None:
    one = [event("a"), event("a", project="prj_other"), record(), record(), event("A"), event("a ")]
    assert find_duplicates(items_of(*one), range(6), {}) == []
    assert event_key("p", "") == b""
    # Nothing between project and id may be shifted from one to the other.
    assert event_key("prj_1", "1a") != event_key("prj_11", "a")


# The same, through Redis, the drain and the engine.


def test_copies_in_one_batch_and_in_later_ones(opened: Open) -> None:
    """Safeguard: the first copy is stored; the others are counted, and say of what they are copies."""

    async def run() -> None:
        async with opened() as made:
            first = event("a")
            await made.put([first, event("a"), event("b"), event("a", project="prj_other"), record()])
            async with made.draining("a"):
                await settled(made, stored=4, duplicates=1)
                await made.put([event("a"), event("b"), event("c"), event("c"), record()])
                await settled(made, stored=6, duplicates=4)
            assert hex_of(first) in await ids_in_store(made)
            details = await made.store.ask("SELECT DISTINCT detail FROM fates FINAL ORDER BY detail")
            assert [hex_of(first)] in details.rows

    asyncio.run(run())


def test_header_and_body_are_the_same_id(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made, made.draining("a"):
            await made.put([event("a ü"), event("a ü", header=True)])
            await settled(made, stored=1, duplicates=1)
            await made.put([event("b", header=True)])
            await settled(made, stored=2, duplicates=1)
            await made.put([event("b", header=True), event("b")])
            await settled(made, stored=2, duplicates=3)
            rows = (await made.store.ask("SELECT event_id FROM events ORDER BY event_id")).rows
            assert rows == [["a ü"], ["b"]]

    asyncio.run(run())


@pytest.mark.parametrize("days_ago", [0, 6, 12, 20, 400])
def test_the_edge_of_seven_days_in_the_store(opened: Open, days_ago: int) -> None:
    """Safeguard: whatever comes late (a spool, a dead letter) is looked up where its time still is."""

    async def run() -> None:
        async with opened() as made, made.draining("a"):
            middle = now_ms() - days_ago * DAY_MS
            await made.put([event("a", recorded=middle)])
            await settled(made, stored=1, duplicates=0)
            # What migration 0003 no longer promises must not be needed.
            await made.store.command("OPTIMIZE TABLE event_ids FINAL")
            await made.put([event("a", recorded=middle + WINDOW_MS), event("a", recorded=middle - WINDOW_MS)])
            await settled(made, stored=1, duplicates=2)
            await made.put(
                [event("a", recorded=middle + WINDOW_MS + 1), event("a", recorded=middle - WINDOW_MS - 1)]
            )
            await settled(made, stored=3, duplicates=2)

    asyncio.run(run())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [0, 1, 2], ids=["the rows", "the ids", "the fates"])
def test_a_crash_around_each_write_changes_no_verdict(opened: Open, number: int, when: str) -> None:
    """Safeguards: the verdict stands in the plan; rows, ids, fates and acknowledgement come in this order."""

    async def run() -> None:
        async with opened() as made:
            await made.put([event("old")])
            async with made.draining("a"):
                await settled(made, stored=1, duplicates=0)
            reached = asyncio.Event()

            async def crash(real: Real) -> None:
                if when == "after":
                    await real()
                reached.set()
                await hang(real)

            async def through(real: Real) -> None:
                await real()

            made.store.faults = [*([through] * number), crash]
            await made.put([event("old"), event("a"), event("b"), event("a"), record()])
            async with made.draining("a"):
                await asyncio.wait_for(reached.wait(), 10)
            await made.put([event("a"), event("b"), event("old"), event("c")])
            async with made.draining("b"):
                await settled(made, stored=5, duplicates=5)

    asyncio.run(run())


def test_a_crash_after_the_plan_and_around_the_acknowledgement(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened() as made:
            for method, is_done in (("save_plan", True), ("acknowledge", False), ("acknowledge", True)):
                real = getattr(Partition, method)
                reached = asyncio.Event()
                await made.put([event("a"), event("a"), event(method + str(is_done))])
                monkeypatch.setattr(Partition, method, stop_around(real, reached, is_done=is_done))
                async with made.draining("a"):
                    await asyncio.wait_for(reached.wait(), 10)
                monkeypatch.setattr(Partition, method, real)
                async with made.draining("a"):
                    await async_until(made.is_empty, 15, "an empty stream")
            await settled(made, stored=4, duplicates=5)

    asyncio.run(run())


Step = Callable[..., Awaitable[None]]


def stop_around(real: Step, reached: asyncio.Event, *, is_done: bool) -> Step:
    """A step that never returns, having done its work or not."""

    async def stuck(self: Partition, *arguments: object) -> None:
        if is_done:
            await real(self, *arguments)
        reached.set()
        await asyncio.Event().wait()

    return stuck


def test_two_drains_that_kill_each_other(opened: Open) -> None:
    """Safeguard: whoever takes over knows every id that its predecessor stored."""

    async def run() -> None:
        async with opened() as made:
            for turn in range(4):
                reached = asyncio.Event()

                def tell(fault: Fault, reached: asyncio.Event = reached) -> Fault:
                    async def and_tell(real: Real) -> None:
                        async def then() -> None:
                            await real()
                            reached.set()

                        if fault is hang:
                            reached.set()
                        await fault(then)

                    return and_tell

                made.store.faults = [tell(insert_then_hang if turn % 2 else hang)]
                await made.put([event(str(number)) for number in range(50)])
                await made.put([event(f"{turn}-{number}") for number in range(50)])
                async with made.draining(f"slot {turn}"):
                    await asyncio.wait_for(reached.wait(), 10)
            async with made.draining("last"):
                await settled(made, stored=250, duplicates=150)

    asyncio.run(run())


def test_the_copy_of_a_dead_letter_is_stored_in_its_place(opened: Open) -> None:
    """Safeguard: nothing is dropped as the copy of an event that no query returns."""

    async def run() -> None:
        async with opened() as made, made.draining("a"):
            bad, good, again = event("a", is_bad=True), event("a"), event("a")
            await made.put([bad, good, again, event("b")])
            await settled(made, stored=2, duplicates=1, dead=1)
            assert hex_of(good) in await ids_in_store(made)
            detail = await made.store.ask("SELECT detail FROM fates FINAL WHERE fate = 'duplicate'")
            assert detail.rows == [[hex_of(good)]]
            await made.put([event("c", is_bad=True), event("b")])
            await settled(made, stored=2, duplicates=2, dead=2)
            await made.put([event("c"), event("a")])
            await settled(made, stored=3, duplicates=3, dead=2)
            assert len(await dead_letters(made.redis, made.keys)) == 2

    asyncio.run(run())


def test_copies_of_a_dead_letter_that_are_no_copies_of_one_another() -> None:
    """Six days before and six days after a bad one: both are stored, and others stay with what they copy."""
    began = now_ms()
    records = [event("a", recorded=began + days * DAY_MS) for days in (0, -6, 6, 7, 14)]
    items = items_of(*records)
    plan = plans.make("p", items, find_duplicates(items, range(5), {}))
    assert [row for row, _ in plan.duplicates] == [1, 2, 3]
    plan.dead.append((0, "bad"))
    plan.parts = []
    verdict.promote(plan, items, 0)
    # 4 (day 14) is in the plan already: 3 is its copy, 2 is eight days away.
    assert [part.rows for part in plan.parts] == [[1, 2]]
    assert plan.duplicates == [(3, hex_of(records[4]))]


def test_no_row_and_no_question_for_events_without_an_id(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody uses costs nothing: one insert a batch, and no look-up."""

    async def run() -> None:
        async with opened() as made:
            asked = watch(monkeypatch)
            await made.put([record() for _ in range(10)])
            async with made.draining("a"):
                await settled(made, stored=10, duplicates=0)
            assert made.store.inserts == 1
            assert not asked

    asyncio.run(run())


def watch(monkeypatch: pytest.MonkeyPatch, failures: int = 0) -> list[str]:
    """The look-ups that are asked from now on; the first `failures` of them get no answer."""
    real, asked = Store.ask, []

    async def ask(self: Store, sql: str, *arguments: object, **options: object) -> object:
        if "unhex(" in sql and "unique_req_id IN" not in sql:
            asked.append(sql)
            if len(asked) <= failures:
                raise StoreUnavailable("lost")
        return await real(self, sql, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "ask", ask)
    return asked


def test_the_store_away_at_the_look_up_is_waited_for(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: without an answer there is no plan; nothing is guessed."""

    async def run() -> None:
        async with opened() as made:
            await made.put([event("a")])
            async with made.draining("a"):
                await settled(made, stored=1, duplicates=0)
                asked = watch(monkeypatch, failures=3)
                await made.put([event("a"), event("b")])
                await settled(made, stored=2, duplicates=1)
                assert len(asked) == 4

    asyncio.run(run())


def test_ten_thousand_ids_in_one_question_and_in_several(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened(max_batch_size=20_000, lease_timeout=30.0) as made, made.draining("a"):
            await made.put([event(f"id-{number}") for number in range(10_000)])
            await settled(made, stored=10_000, duplicates=0)
            asked = watch(monkeypatch)
            await made.put([event(f"id-{number}") for number in range(9_000, 19_000)])
            await settled(made, stored=19_000, duplicates=1_000)
            assert len(asked) == 1
            monkeypatch.setattr(event_ids, "KEYS_A_QUESTION", 7)
            await made.put([event(f"id-{number}") for number in range(18_990, 19_010)])
            await settled(made, stored=19_010, duplicates=1_010)
            assert len(asked) == 4

    asyncio.run(run())


HOSTILE = [
    "') OR 1 --",
    "\\",
    "'",
    '"',
    "a\u2028b",
    "\U0001f600" * 128,
    "{keys:String}",
    "%00",
    "\t",
    "\u0000",
]


def test_ids_of_any_text(opened: Open) -> None:
    """Safeguard: the text of an id never reaches a statement."""

    async def run() -> None:
        async with opened() as made, made.draining("a"):
            await made.put([event(text) for text in HOSTILE])
            await settled(made, stored=len(HOSTILE), duplicates=0)
            await made.put([event(text) for text in HOSTILE])
            await settled(made, stored=len(HOSTILE), duplicates=len(HOSTILE))

    asyncio.run(run())


def test_events_that_an_earlier_version_stored_are_known(opened: Open) -> None:
    """Migration 0004: the same digest in SQL, and no harm in a second run."""

    async def run() -> None:
        async with opened() as made, made.draining("a"):
            await made.put([event("ü"), event("b", header=True), record()])
            await settled(made, stored=3, duplicates=0)
            told = await remembered(made)
            assert len(told) == 2
            await made.store.command("TRUNCATE TABLE event_ids")
            for _ in range(2):
                await made.store.command(read_migrations()[3].sql)
            assert await remembered(made) == told
            await made.put([event("ü"), event("b")])
            await settled(made, stored=3, duplicates=2)

    asyncio.run(run())


async def remembered(made: Bench) -> list[list[object]]:
    return (
        await made.store.ask(
            "SELECT key, check, project_id, time_recorded, hex(unique_req_id) FROM event_ids FINAL ORDER BY key"
        )
    ).rows


def test_the_same_id_twice_is_remembered_with_both_moments(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made, made.draining("a"):
            began = now_ms() - 6 * DAY_MS
            moments = [began, began + WINDOW_MS + 1]
            for moment in moments:
                await made.put([event("a", recorded=moment)])
            await settled(made, stored=2, duplicates=0)
            ids = event_ids.EventIds(made.store, timeout_seconds=5)
            found: Mapping[bytes, list[Copy]] = await ids.look_up(items_of(event("a"), event("b")))
            assert [one.time_recorded for one in found[event_key("prj_test", "a")]] == moments
            assert all(a < b for copies in found.values() for a, b in pairwise(copies))
            assert event_key("prj_test", "b") not in found

    asyncio.run(run())
