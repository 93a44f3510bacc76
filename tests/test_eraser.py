"""What an erasure means leaves stream, dead letters, store and files; the ledger follows; nobody else's does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from app import erasure_scripts as scripts
from app.enrich import Geography
from app.erasures import Erasures, Report
from app.ledger_reader import LedgerReader
from app.stream import Record
from app.tombstone import Tombstone
from tests.pipeline_kit import POISON, Bench, assert_conserved, dead_letters, ledger
from tests.pipeline_steps import Open, opened
from tests.store_fixture import StoreServer, store_database, store_server  # noqa: F401
from tests.waiting import async_until
from workers.eraser import Eraser
from workers.tombstones import Tombstones
from workers.verifier import Verifier

__all__ = ["opened"]

DAY = 24 * 3_600_000
PROJECT = "prj_test"


def event(customer: str, *, ago: int = 0, **fields: object) -> Record:
    body = msgspec.json.encode({"event_name": "e", "customer_identifier": customer, **fields})
    return Record(os.urandom(12), 1, time.time_ns() // 1_000_000 - ago, PROJECT, "", "", "", "", body)


class Scene:
    """A bench with its eraser: `erase` begins an erasure as an edge does."""

    def __init__(self, made: Bench) -> None:
        self.made = made
        queue, dead = made.settings.producer.queue, made.settings.consumer.dead_letter_queue
        self.reader = LedgerReader(made.redis, queue, 1, dead)
        self.erasures = Erasures(made.redis, made.store, queue)
        self.eraser = self.make()

    def make(self) -> Eraser:
        made = self.made
        return Eraser(
            *(made.redis, made.store, self.reader, Tombstones(made.redis, Geography(""))),
            queue=made.settings.producer.queue, owner=os.urandom(4).hex(), margin_ms=0,
            round_seconds=0, proof_seconds=0,
        )  # fmt: skip

    async def erase(self, *customers: str, **members: Any) -> str:
        one = Tombstone("", PROJECT, 0, customers or None, **members)
        return (await self.erasures.begin(one, 0, "")).erasure_id

    async def step(self, times: int = 2) -> None:
        for _ in range(times):
            await self.eraser.step()

    async def done(self, erasure_id: str) -> Report:
        """When it is; every step in between."""

        async def is_done() -> Report | None:
            await self.eraser.step()
            report = await self.erasures.report(PROJECT, erasure_id)
            return report if report is not None and report.state == "done" else None

        return await async_until(is_done, 90, "the erasure to be done")

    async def customers(self) -> list[object]:
        sql = "SELECT customer_identifier, count() FROM events GROUP BY ALL ORDER BY ALL"
        return [(name, number) for name, number in (await self.made.store.ask(sql)).rows]

    async def assert_clean(self) -> None:
        """`verify` finds no difference, at once."""
        report = await Verifier(
            self.made.redis, self.made.store, self.reader, since_hour=None, wait_seconds=5
        ).run()
        assert report.differences == []
        assert report.moving == []


@contextlib.asynccontextmanager
async def scene(opened: Open) -> AsyncIterator[Scene]:
    async with opened() as made:
        yield Scene(made)


def test_one_customer_of_many_is_gone_and_it_is_proven(opened: Open) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await made.put([event(f"c{n % 20}", ago=(n % 3) * DAY, event_id=f"id{n}") for n in range(200)])
            await made.put([event("c7", event_id="id7"), event("c7", event_id="id7", ago=-3_600_000)])
            await async_until(made.is_empty, 15)
            marker = b'{"event_name":"e","customer_identifier":"c7","a":1,"a":2}'
            await made.put(
                [Record(os.urandom(12), 1, time.time_ns() // 1_000_000, PROJECT, "", "", "", "", marker)]
            )
            await made.put(
                [Record(os.urandom(12), 1, time.time_ns() // 1_000_000, PROJECT, "", "", "", "", POISON)]
            )
            await async_until(made.is_empty, 15)
            before = await ledger(made.redis, made.keys)
            erasure = await here.erase("c7")
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
            expected = [(f"c{n}", 10) for n in range(20) if n != 7]
            assert await here.customers() == sorted(expected)
            after = await ledger(made.redis, made.keys)
            assert after == before | {"stored": 190, "erased": 11, "dead": 1}
            assert [one.body for one in await dead_letters(made.redis, made.keys)] == [POISON]
            for table in ("event_ids", "fates", "erasures"):
                rows = await made.store.ask(f"SELECT count() FROM {table} WHERE project_id = '{PROJECT}'")
                # ids of others; and of the erased events, their copies too, nothing but their ids
                assert rows.rows == [[{"event_ids": 190, "fates": 13, "erasures": 0}[table]]], table
            named = await made.store.ask("SELECT count() FROM fates WHERE customer_identifier != ''")
            assert named.rows == [[0]]
            await assert_conserved(made.redis, made.keys)
            await here.assert_clean()
            assert await made.redis.hlen(scripts.OPEN) == 0
            assert await here.eraser.step() is False

    asyncio.run(run())
