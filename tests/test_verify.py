"""`eventbunker verify` is clean while nothing is wrong, under load too, and names each thing that is."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app import ledger
from app.ledger_reader import LedgerMover, LedgerReader
from app.settings import Settings
from app.store import Result, Store
from app.stream import Keys, Record
from tests.pipeline_kit import POISON, Bench, entries, record
from tests.pipeline_steps import Open, assert_stored, insert_then_hang, opened
from tests.store_fixture import StoreServer
from tests.waiting import async_until
from workers import count_rows, verifier, verify
from workers.count_rows import Hours, Rows
from workers.reconcile import Finding, Report, Verdict, judge
from workers.verifier import Verifier

__all__ = ["opened"]

NOW = int(time.time() * 1000)
HOUR = ledger.HOUR_MS
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is erased beside these tests, so a difference need not last long."""
    monkeypatch.setattr(verifier, "CONFIRM_SECONDS", 0.1)
    monkeypatch.setattr(verifier, "LOOK_SECONDS", 0.05)


def reader(made: Bench) -> LedgerReader:
    return LedgerReader(made.redis, made.settings.producer.queue, 1, made.settings.consumer.dead_letter_queue)


async def report(made: Bench, *, since: int | None = None, wait: float = 5.0) -> Report:
    return await Verifier(made.redis, made.store, reader(made), since_hour=since, wait_seconds=wait).run()


async def differences(made: Bench) -> list[Finding]:
    return (await report(made)).differences


def of(project_id: str, *, ago: int = 0) -> Record:
    return msgspec.structs.replace(record(recorded=NOW - ago), project_id=project_id)


async def store_some(made: Bench) -> None:
    """90 events of two projects in this hour, yesterday, and three weeks ago."""
    records = [of(project_id, ago=ago) for project_id in ("prj_a", "prj_b") for ago in (0, DAY, 21 * DAY)] * 1
    records = [
        msgspec.structs.replace(one, request_id=record().request_id) for one in records for _ in range(15)
    ]
    await made.put(records)
    async with made.draining():
        await assert_stored(made, 90)


def test_clean_when_all_is_well(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            assert (await report(made)).clean, "an empty service"
            await store_some(made)
            whole = await report(made)
            assert (whole.differences, whole.moving) == ([], [])
            assert (whole.rows, whole.fates) == (90, {"appended": 90, "stored": 90})
            assert whole.buckets == 6
            recent = await report(made, since=(NOW - 2 * DAY) // HOUR)
            assert (recent.clean, recent.rows, recent.fates["stored"]) == (True, 60, 60)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ago", "hour"), [(0, "T"), (DAY, "T"), (21 * DAY, "before ")], ids=["now", "yesterday", "folded"]
)
def test_dirty_after_one_row_was_deleted_by_hand(opened: Open, ago: int, hour: str) -> None:
    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            victim = of("prj_a", ago=ago)
            await made.put([victim])
            async with made.draining():
                await assert_stored(made, 91)
            assert (await report(made)).clean
            await made.store.command(
                "ALTER TABLE events DELETE WHERE unique_req_id = toFixedString(unhex({id:String}), 16)"
                " SETTINGS mutations_sync = 2",
                {"id": victim.unique_req_id.hex()},
            )
            [found] = await differences(made)
            assert (found.project_id, found.what, found.expected, found.found) == (
                *("prj_a", "rows in the store"),
                *(16, 15),
            )
            assert hour in found.hour
            assert found.hint.startswith("lost: 1 ")
            if ago == DAY:
                recent = await report(made, since=NOW // HOUR - 2)
                assert recent.clean, "that hour was not asked for"

    asyncio.run(run())


def test_dirty_after_a_row_was_doubled_or_came_from_elsewhere(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            copy = "INSERT INTO events SELECT * FROM events WHERE project_id = 'prj_a' LIMIT 1"
            await made.store.command(copy)
            [doubled] = await differences(made)
            assert doubled.project_id == "prj_a"
            assert doubled.hint == "doubled: 1 rows have the unique_req_id of another"
            await made.store.command(
                "INSERT INTO events (project_id, event_name, time_recorded, unique_req_id, body)"
                " VALUES ('prj_c', 'e', now64(3), 'aaaaaaaaaaaaaaaa', '{\"event_name\":\"e\"}')"
            )
            _, foreign = sorted(await differences(made), key=lambda one: one.project_id)
            assert (foreign.project_id, foreign.expected, foreign.found) == ("prj_c", 0, 1)
            assert foreign.hint.startswith("foreign: 1 ")

    asyncio.run(run())


def test_what_waits_is_compared_with_the_stream(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(5)])
            await made.put([record() for _ in range(7)])
            assert (await report(made, wait=0)).clean
            first, _ = await entries(made.redis, made.keys.entries)
            await made.redis.xdel(made.keys.entries, first[0])
            [found] = (await report(made, wait=0)).differences
            assert (found.project_id, found.expected, found.found) == ("prj_test", 12, 7)
            assert found.hint.startswith("lost: ")

    asyncio.run(run())


def test_a_backlog_that_is_too_long_to_count_is_no_difference(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened() as made:
            for _ in range(40):
                await made.put([record()])
            script = "app.ledger_reader.ledger_scripts.QUEUE_COUNTS"
            from app.ledger_scripts import QUEUE_COUNTS

            monkeypatch.setattr(script, QUEUE_COUNTS.replace("entries < 5000", "entries < 20"))
            [snapshot] = await reader(made).read()
            assert (snapshot.queued, snapshot.entries) == (None, 40)
            assert (await report(made, wait=0)).clean

    asyncio.run(run())


def test_dead_letters_are_counted(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await made.put([*(record() for _ in range(5)), record(POISON)])
            await made.redis.xadd(
                made.keys.entries, {"r": b"\xc1", "c": ledger.encode_counts({"prj_x|1": 3})}
            )
            await made.redis.hincrby(made.keys.ledger, "appended", 3)
            await made.redis.hincrby(made.keys.hours, "prj_x|1|appended", 3)
            async with made.draining():
                await async_until(made.is_empty, 15)
            done = await report(made)
            assert (done.differences, done.fates) == ([], {"appended": 9, "stored": 5, "dead": 4})
            unreadable, poisoned = await entries(made.redis, made.keys.dead)
            for letter, project_id, number in ((unreadable, "prj_x", 3), (poisoned, "prj_test", 1)):
                await made.redis.xdel(made.keys.dead, letter[0])
                found = {one.project_id: one for one in await differences(made)}[project_id]
                assert (found.what, found.expected, found.found) == ("dead letters", number, 0)

    asyncio.run(run())


def test_a_former_partition_is_counted_too(opened: Open) -> None:
    """After the number of partitions has fallen: its events are still stored."""

    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            own, former = made.keys, Keys(made.settings.producer.queue, 3, "events-dead")
            made.keys = former
            await made.put([of("prj_a"), record(POISON)])
            async with made.draining():
                await async_until(made.is_empty, 15)
            made.keys = own
            whole = await report(made)
            assert (whole.differences, whole.fates) == ([], {"appended": 92, "stored": 91, "dead": 1})
            await made.redis.delete(former.dead)
            assert [one.what for one in await differences(made)] == ["dead letters"]

    asyncio.run(run())


def test_an_edited_ledger_is_told(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            await made.redis.hincrby(made.keys.ledger, "stored", 1)
            [found] = await differences(made)
            assert found.what == "stored in partition 0, total against hours"

    asyncio.run(run())


def test_clean_while_events_arrive_and_drains_crash(opened: Open) -> None:
    """Ledger and store cannot be read at one moment; that must never look like a difference."""

    async def run() -> None:
        async with opened() as made:
            stop = asyncio.Event()

            async def load() -> int:
                sent = 0
                while not stop.is_set():
                    await made.put([record() for _ in range(5)])
                    sent += 5
                    await asyncio.sleep(0.005)
                return sent

            async def crashes() -> None:
                while not stop.is_set():
                    made.store.faults = [insert_then_hang] if made.store.inserts % 3 else []
                    async with made.draining():
                        await asyncio.sleep(0.7)

            loading, crashing = asyncio.create_task(load()), asyncio.create_task(crashes())
            for wait in (0.0, 0.0, 0.5, 0.5, 2.0):
                assert await differences_within(made, wait) == []
            stop.set()
            sent = await loading
            await crashing
            made.store.faults = []
            async with made.draining():
                await assert_stored(made, sent)
            final = await report(made)
            assert (final.differences, final.moving, final.rows) == ([], [], sent)

    async def differences_within(made: Bench, wait: float) -> list[Finding]:
        return (await report(made, wait=wait)).differences

    asyncio.run(run())


def test_a_loss_is_seen_while_events_arrive(opened: Open) -> None:
    """The same hour moves, and a row of it is gone: out of the bounds that load explains."""

    async def run() -> None:
        async with opened() as made:
            await made.put([record() for _ in range(200)])
            async with made.draining():
                await assert_stored(made, 200)
                await made.store.command("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
                stop = asyncio.Event()

                async def load() -> None:
                    while not stop.is_set():
                        await made.put([record()])
                        await asyncio.sleep(0.01)

                loading = asyncio.create_task(load())
                found = await differences(made)
                stop.set()
                await loading
            assert [one.hint.partition(":")[0] for one in found] == ["lost"]

    asyncio.run(run())


def test_full_hours_are_asked_in_portions(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """No question about the ids of more rows than a bound; the sums are the same."""

    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            await made.store.command("INSERT INTO events SELECT * FROM events LIMIT 1")
            days = await count_rows.days(made.store)
            assert len(days) == 3
            span = Hours(days[0] * 24, (days[-1] + 1) * 24)
            portions = await count_rows.portion(made.store, span)
            whole = await count_rows.count_rows(made.store, portions, str)
            monkeypatch.setattr(count_rows, "ROWS_A_QUESTION", 7)
            small = await count_rows.portion(made.store, span)
            assert len(small) == 3
            assert {portion.slices for portion in small} == {5}
            assert await count_rows.count_rows(made.store, small, str) == whole
            assert sum(rows.count - rows.distinct for rows in whole.values()) == 1

    asyncio.run(run())


def test_wrong_clocks_put_decades_between_days(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only days that somebody knows are asked for: there are 45,000 others here."""

    async def run() -> None:
        async with opened() as made:
            years = 365 * DAY
            await made.put([of("prj_a", ago=ago) for ago in (-70 * years, 0, 10 * DAY, 50 * years)])
            async with made.draining():
                await assert_stored(made, 4)
            ask, asked = Store.ask, 0

            async def count(self: Store, *arguments: Any, **options: Any) -> Result:
                nonlocal asked
                asked += 1
                return await ask(self, *arguments, **options)

            monkeypatch.setattr(Store, "ask", count)
            whole = await report(made)
            assert (whole.clean, whole.rows, whole.buckets) == (True, 4, 3)
            assert asked < 20
            recent = await report(made, since=NOW // HOUR)
            assert (recent.clean, recent.rows) == (True, 2)
            await made.store.command(
                "ALTER TABLE events DELETE WHERE time_recorded > '2090-01-01' SETTINGS mutations_sync = 2"
            )
            [found] = await differences(made)
            assert found.hint.startswith("lost: 1 ")

    asyncio.run(run())


def test_folding_and_moving_keep_every_count(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store_some(made)
            mover = LedgerMover(made.redis, made.keys)
            kept = NOW // HOUR - ledger.KEPT_HOURS
            before = await made.redis.hgetall(made.keys.ledger)
            assert await mover.fold(kept) == 4, "appended and stored of two projects"
            assert await mover.fold(kept) == 0
            assert await made.redis.hgetall(made.keys.ledger) == before
            assert await made.redis.hget(made.keys.hours, "prj_a|before|stored") == b"15"
            assert (await report(made)).clean

            await made.put([of("prj_a", ago=21 * DAY)])  # from a spool that was found late
            assert (await report(made, wait=0)).clean
            async with made.draining():
                await assert_stored(made, 91)
            assert (await report(made)).clean
            await mover.fold(kept)
            assert await made.redis.hget(made.keys.hours, "prj_a|before|stored") == b"16"

            seen = await mover.stored("prj_a")
            assert sum(seen.values()) == 46
            await made.store.command(
                "ALTER TABLE events DELETE WHERE project_id = 'prj_a' SETTINGS mutations_sync = 2"
            )
            stale = {where: number - 1 for where, number in seen.items()}
            assert await mover.move(stale, ledger.ERASED) == 0, "the ledger went on since"
            assert await mover.move(seen, ledger.ERASED) == 46
            assert await mover.move(seen, ledger.ERASED) == 0
            done = await report(made)
            assert (done.differences, done.fates) == ([], {"appended": 91, "stored": 45, "erased": 46})

    asyncio.run(run())


@pytest.mark.parametrize(
    ("before", "rows", "after", "verdict"),
    [
        ({"appended": 5, "stored": 5}, Rows(5, 5), {"appended": 5, "stored": 5}, Verdict.EQUAL),
        ({"appended": 9, "stored": 5}, Rows(5, 5), {"appended": 10, "stored": 5}, Verdict.EQUAL),
        ({"appended": 5, "stored": 5}, Rows(4, 4), {"appended": 5, "stored": 5}, Verdict.DIFFERENT),
        ({"appended": 5, "stored": 5}, Rows(6, 6), {"appended": 5, "stored": 5}, Verdict.DIFFERENT),
        ({"appended": 5, "stored": 5}, Rows(5, 4), {"appended": 5, "stored": 5}, Verdict.DIFFERENT),
        ({"appended": 9, "stored": 5}, Rows(9, 9), {"appended": 9, "stored": 5}, Verdict.MOVING),
        ({"appended": 9, "stored": 5}, Rows(10, 10), {"appended": 9, "stored": 5}, Verdict.DIFFERENT),
        ({"appended": 9, "stored": 5}, Rows(4, 4), {"appended": 12, "stored": 8}, Verdict.DIFFERENT),
        ({"appended": 9, "stored": 5}, Rows(7, 7), {"appended": 12, "stored": 8}, Verdict.MOVING),
        ({"appended": 5, "stored": 5}, Rows(0, 0), {"appended": 5, "erased": 5}, Verdict.MOVING),
        ({"appended": 5, "stored": 5}, Rows(5, 5), {"appended": 5, "erased": 5}, Verdict.MOVING),
    ],
)
def test_what_load_explains(
    before: dict[str, int], rows: Rows, after: dict[str, int], verdict: Verdict
) -> None:
    assert judge(before, rows, after) is verdict


def test_exit_codes_and_output(
    opened: Open, tmp_path: Path, store_server: StoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare() -> Settings:
        async with opened() as made:
            await store_some(made)
            return made.settings

    settings = asyncio.run(prepare())
    store_database = settings.store.database
    capsys.readouterr()
    assert verify.verify(settings, since_ms=None, wait_seconds=1, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "90 appended" in shown
    assert shown.endswith("clean\n")
    store_server.text(
        "ALTER TABLE events DELETE WHERE project_id = 'prj_b' SETTINGS mutations_sync = 2",
        database=store_database,
    )
    assert verify.verify(settings, since_ms=NOW - DAY, wait_seconds=1, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["clean"]
    assert {one["project_id"] for one in told["differences"]} == {"prj_b"}
    assert verify.verify(settings, since_ms=None, wait_seconds=1, as_json=False) == 1
    shown = capsys.readouterr().out
    assert "prj_b  20" in shown
    assert "lost: 15 events" in shown
    assert shown.endswith("3 differences\n")

    assert verify.verify(settings, since_ms=NOW + DAY, wait_seconds=1, as_json=False) == 2
    assert "--since lies in the future" in capsys.readouterr().err

    replace = msgspec.structs.replace
    for broken, word in (
        (replace(settings, redis_url=f"unix://{tmp_path}/none.sock"), "REDIS_URL"),
        (replace(settings, clickhouse_url="http://127.0.0.1:9"), "CLICKHOUSE_URL"),
        (replace(settings, store=replace(settings.store, database="none")), "migrate"),
        (replace(settings, redis_url="", dev=replace(settings.dev, persist_to="nowhere")), "REDIS_URL"),
    ):
        assert verify.verify(broken, since_ms=None, wait_seconds=1, as_json=False) == 2
        assert word in capsys.readouterr().err
