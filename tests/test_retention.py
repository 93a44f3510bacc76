"""Events that are older than they are kept: hidden, refused, dropped by the month, and accounted for."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import cast

import msgspec
import pytest

from app import dead_letter, formats, ledger
from app.ask import Asker
from app.dead import DeadLetters
from app.dead_letter import DeadLetter
from app.erasures import Erasures
from app.grant import Grant, KeyType
from app.ledger_reader import LedgerMover, LedgerReader
from app.partition import Freshness
from app.read import ReadHandlers
from app.receipt import ReceiptHandler
from app.registry import Registry
from app.retention import DAY_MS, month_begin_ms, oldest_ms
from app.settings import Settings
from app.stream import Record
from app.whereabouts import Stored, Stream, UniqueReqId
from tests.pipeline_kit import Bench, entries, record
from tests.pipeline_steps import Open, opened
from tests.waiting import async_until
from workers.reconcile import Report
from workers.retention import Retention
from workers.tidy import Tidy
from workers.verifier import Verifier

__all__ = ["opened"]

DAYS = 30
NOW = int(time.time() * 1000)
HOUR = NOW // ledger.HOUR_MS
AGES = (400, 399, 370, 100, 95, 31, 29, 9, 0)  # in days


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each test: a month may have ended since the first one."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", now := int(time.time() * 1000))
    monkeypatch.setattr(sys.modules[__name__], "HOUR", now // ledger.HOUR_MS)


def gone(age_days: int, days: int = DAYS) -> bool:
    """Is the whole month of an event of that age too old?"""
    return NOW - age_days * DAY_MS < month_begin_ms(NOW - days * DAY_MS)


def of(project_id: str, age_days: float) -> Record:
    return msgspec.structs.replace(record(recorded=NOW - int(age_days * DAY_MS)), project_id=project_id)


def reader(made: Bench) -> LedgerReader:
    return LedgerReader(made.redis, made.settings.producer.queue, 1, made.settings.consumer.dead_letter_queue)


def retention(made: Bench, days: int = DAYS) -> Retention:
    return Retention(made.redis, made.store, reader(made), days)


async def tidy(made: Bench, days: int = DAYS) -> None:
    await Tidy(made.redis, made.store, reader(made), retention(made, days)).tidy(HOUR)


async def verified(made: Bench, days: int = DAYS, wait: float = 2) -> Report:
    verifier = Verifier(
        *(made.redis, made.store, reader(made)), since_hour=None, wait_seconds=wait, retention_days=days
    )
    report = await verifier.run()
    assert report.differences == []
    return report


async def counts(made: Bench, days: int = DAYS) -> dict[str, int]:
    report = await verified(made, days)
    assert report.moving == []
    return {fate: number for fate, number in report.fates.items() if number}


async def store(made: Bench, records: list[Record]) -> None:
    await made.put(records)
    async with made.draining():
        await async_until(made.is_empty, 15)


async def hours(made: Bench) -> set[str]:
    """The fields of the ledger's buckets."""
    return {name.decode() for name in cast("list[bytes]", await made.redis.hkeys(made.keys.hours))}


def keeping(settings: Settings, days: int) -> Settings:
    replace = msgspec.structs.replace
    return replace(settings, store=replace(settings.store, retention_days=days))


def test_whole_months_go_and_the_ledger_follows(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            records = [of(project, age) for project in ("prj_a", "prj_b") for age in AGES]
            await store(made, records)
            old = 2 * sum(map(gone, AGES))
            assert 0 < old < len(records)
            assert await counts(made) == {"appended": len(records), "stored": len(records)}
            await tidy(made)
            left = len(records) - old
            assert await made.store.stored() == (left, left)
            assert await counts(made) == {"appended": len(records), "stored": left, "expired": old}
            await tidy(made)
            assert await counts(made) == {"appended": len(records), "stored": left, "expired": old}
            fields = await hours(made)
            months = {name.split("|")[1] for name in fields if name.endswith("|stored")}
            assert months, fields
            assert all(
                month >= f"{datetime.fromtimestamp(NOW / 1000 - DAYS * 86400, UTC):%Y-%m}"
                for month in months
                if "-" in month
            )
            # Kept for ever again: the ledger forgets the months.
            await Tidy(made.redis, made.store, reader(made)).tidy(HOUR)
            assert not any("-" in name.split("|")[1] for name in await hours(made))
            assert await counts(made, 0) == {"appended": len(records), "stored": left, "expired": old}

    asyncio.run(run())


def test_events_folded_before_it_was_switched_on_find_their_months(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            records = [of(project, age) for project in ("prj_a", "prj_b") for age in AGES]
            await store(made, records)
            await Tidy(made.redis, made.store, reader(made)).fold(HOUR)
            stored = await LedgerMover(made.redis, made.keys).all_stored()
            folded = {where: number for where, number in stored.items() if where.endswith("|before")}
            assert folded == dict.fromkeys(("prj_a|before", "prj_b|before"), sum(age > 8 for age in AGES))
            await tidy(made)
            old = 2 * sum(map(gone, AGES))
            expected = {"appended": len(records), "stored": len(records) - old, "expired": old}
            assert await counts(made) == expected
            stored = await LedgerMover(made.redis, made.keys).all_stored()
            assert not any(where.endswith("|before") for where in stored)

    asyncio.run(run())


def test_what_was_lost_before_stays_told(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_a", age) for age in AGES])
            await Tidy(made.redis, made.store, reader(made)).fold(HOUR)
            lost = (
                f"SELECT 1 FROM events WHERE time_recorded < fromUnixTimestamp64Milli({NOW - 398 * DAY_MS})"
            )
            assert len((await made.store.ask(lost)).rows) == 2
            await made.store.command(
                f"ALTER TABLE events DELETE WHERE time_recorded < fromUnixTimestamp64Milli({NOW - 398 * DAY_MS})"
                " SETTINGS mutations_sync = 2"
            )
            await tidy(made)
            verifier = Verifier(
                *(made.redis, made.store, reader(made)), since_hour=None, wait_seconds=1, retention_days=DAYS
            )
            [found] = (await verifier.run()).differences
            assert (found.expected - found.found, found.hint[:7]) == (2, "lost: 2")

    asyncio.run(run())


def test_a_crash_after_the_drop_is_made_good(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_a", age) for age in AGES])

            async def killed(*_: object) -> int:
                raise ConnectionError

            with monkeypatch.context() as patch:
                patch.setattr(LedgerMover, "move", killed)
                with pytest.raises(ConnectionError):
                    await tidy(made)
            report = await verified(made, wait=0)
            assert [one.hint for one in report.moving] == ["being erased or dropped by age"]
            await tidy(made)
            old = sum(map(gone, AGES))
            assert await counts(made) == {"appended": len(AGES), "stored": len(AGES) - old, "expired": old}

    asyncio.run(run())


def test_several_drains_do_it_at_once_while_old_events_still_come(opened: Open) -> None:
    """From a drain that does not know the setting yet: what it stores is dropped by the next run."""

    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_a", age) for age in AGES])

            async def come() -> None:
                for age in (400, 200, 100) * 3:
                    await made.put([of("prj_a", age)])
                    await asyncio.sleep(0)

            async with made.draining():
                await asyncio.gather(come(), tidy(made), tidy(made), tidy(made))
                await async_until(made.is_empty, 15)
            await tidy(made)
            old = sum(map(gone, AGES)) + 9
            assert await counts(made) == {
                "appended": len(AGES) + 9,
                "stored": len(AGES) + 9 - old,
                "expired": old,
            }

    asyncio.run(run())


def test_the_drain_stores_nothing_that_is_too_old(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            made.settings = keeping(made.settings, DAYS)
            records = [of("prj_a", age) for age in (400, 30.01, 29.9, 0)]
            await store(made, records)
            assert await made.store.stored() == (2, 2)
            assert await counts(made) == {"appended": 4, "stored": 2, "expired": 2}
            rows = (await made.store.ask("SELECT fate, lower(hex(unique_req_id)) FROM fates FINAL")).rows
            assert sorted(map(tuple, rows)) == sorted(
                ("expired", one.unique_req_id.hex()) for one in records[:2]
            )

    asyncio.run(run())


def test_queries_and_receipts_do_not_wait_for_the_month_to_end(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            ages = (400, 30.01, 29.9, 0)
            records = [
                msgspec.structs.replace(
                    of("prj_a", age),
                    request_id=(NOW - int(age * DAY_MS)).to_bytes(6, "big") + os.urandom(6),
                    body=b'{"event_name":"e","timestamp":"2020-01-01"}',  # an old time of its own is no matter
                )
                for age in ages
            ]
            await store(made, records)
            settings = keeping(made.settings, DAYS)
            queue = settings.producer.queue
            registry = Registry(made.redis, settings)
            asker = Asker(
                *(registry, made.store, Freshness(made.redis, queue, 1)),
                *(Erasures(made.redis, made.store, queue), settings),
            )
            grant = Grant(KeyType.QUERY, "k", "a", "prj_a")
            query = b'{"time_period": {"start": "1970-01-01", "end": "2100-01-01"}}'
            answer = await ReadHandlers(asker).answer(query, grant, formats.JSON)
            seen = {row["unique_req_id"] for row in json.loads(answer.content)["data"]}
            assert seen == {one.unique_req_id.hex() for one in records[2:]}

            receipts = ReceiptHandler(
                *(registry, Empty(), Stream(made.redis, queue, 1), DeadLetters(made.redis, settings)),
                Stored(made.store),
                hiding=Erasures(made.redis, made.store, queue),
                retention_days=DAYS,
            )

            async def states() -> list[object]:
                found = [await receipts._find(UniqueReqId(one.unique_req_id), grant) for one in records]
                return [one["state"] for one in found]

            assert await states() == ["expired", "expired", "stored", "stored"]
            await tidy(made)
            assert (await made.store.stored())[0] < 4
            assert await states() == ["expired", "expired", "stored", "stored"]

    asyncio.run(run())


class Empty:
    """A spool."""

    async def find(self, request_id: bytes) -> list[bytes]:
        return []


def test_dead_letters_expire_too(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            letters = [DeadLetter("no row", NOW, "1-0", of("prj_a", age)) for age in (31, 29)]
            # An entry that nobody can read is as old as the youngest hour that it counts.
            for ages in ((40, 50), (40, 5)):
                places = [ledger.bucket("prj_a", NOW - age * DAY_MS) for age in ages]
                text = ";".join(f"{place}=2" for place in places)
                letters.append(DeadLetter("unreadable entry: short", 0, "2-0", None, b"\xc1", text))
            for number, letter in enumerate(letters, 1):
                await made.redis.xadd(made.keys.dead, {"d": dead_letter.encode(letter)}, id=f"{number}-0")
                for where, count in dead_letter.counts(letter).items():
                    for fate in (ledger.APPENDED, ledger.DEAD):
                        await made.redis.hincrby(made.keys.hours, ledger.field(where, fate), count)
                        await made.redis.hincrby(made.keys.ledger, fate, count)
            await tidy(made)
            left = [entry.decode() for entry, _ in await entries(made.redis, made.keys.dead)]
            assert left == ["2-0", "4-0"]
            assert await counts(made) == {"appended": 10, "dead": 5, "expired": 5}

    asyncio.run(run())


def test_a_clock_that_is_wrong_deletes_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened() as made:
            await store(made, [of("prj_a", 0)])
            with monkeypatch.context() as patch:
                patch.setattr(time, "time_ns", lambda: (NOW + 4000 * DAY_MS) * 1_000_000)
                assert await retention(made).expire(HOUR) == 0
            assert await made.store.stored() == (1, 1)

    asyncio.run(run())


def test_ids_are_kept_as_long_as_copies_may_come(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            records = [msgspec.structs.replace(of("prj_a", age), event_id=f"k{age}") for age in (14, 6, 0)]
            await store(made, records)
            assert len((await made.store.ask("SELECT DISTINCT key FROM event_ids")).rows) == 3
            await tidy(made, days=1)
            assert len((await made.store.ask("SELECT DISTINCT key FROM event_ids")).rows) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("moment", "begin"),
    [
        ("2026-03-31T23:59:59.999", "2026-03-01"),
        ("2026-04-01T00:00:00.000", "2026-04-01"),
        ("1970-01-01T00:00:00.000", "1970-01-01"),
    ],
)
def test_months_are_those_of_utc(moment: str, begin: str) -> None:
    def ms(text: str) -> int:
        return round(
            datetime.fromisoformat(f"{text}+00:00" if "T" in text else f"{text}T00:00:00+00:00").timestamp()
            * 1000
        )

    assert month_begin_ms(ms(moment)) == ms(begin)
    assert (
        ledger.end_of(ledger.of_month("p", ms(begin) // ledger.HOUR_MS))
        == ms({"2026-03-01": "2026-04-01", "2026-04-01": "2026-05-01", "1970-01-01": "1970-02-01"}[begin])
        // ledger.HOUR_MS
    )


def test_no_days_mean_for_ever() -> None:
    assert oldest_ms(0, NOW) == 0
    assert oldest_ms(36_500, NOW) == 0  # older than time itself
    assert oldest_ms(1, NOW) == NOW - DAY_MS
