"""What the tests of the eraser share: a bench with one, erasures as an edge begins them, and its deaths."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import msgspec
import pytest

from app import erasure_scripts as scripts
from app import erasures
from app.ask import Turn
from app.erase import Matched, count
from app.erase_request import Wanted, read_erasure
from app.erasure_report import Report
from app.erasures import Erasures
from app.grant import Grant, KeyType
from app.ledger_reader import LedgerReader
from app.scope import Scope
from app.store import Result, Store, Value
from app.stream import Record
from app.tombstone import Tombstone
from tests.pipeline_kit import Bench, make_eraser
from tests.pipeline_steps import Open
from tests.waiting import async_until
from workers.eraser import Eraser
from workers.verifier import Verifier

DAY = 24 * 3_600_000
PROJECT = "prj_test"


def event(customer: str, *, ago: int = 0, **fields: object) -> Record:
    body = msgspec.json.encode({"event_name": "e", "customer_identifier": customer, **fields})
    return Record(os.urandom(12), 1, time.time_ns() // 1_000_000 - ago, PROJECT, "", "", "", "", body)


class _Turn:
    """The right to ask the store, of a test."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self.scope = scope

    async def ask(self, sql: str, parameters: Mapping[str, Value]) -> Result:
        return await self._store.ask(sql, parameters)


class Scene:
    """A bench with its eraser: `erase` begins an erasure as an edge does."""

    def __init__(self, made: Bench) -> None:
        self.made = made
        queue, dead = made.settings.producer.queue, made.settings.consumer.dead_letter_queue
        self.reader = LedgerReader(made.redis, queue, 1, dead)
        self.erasures = Erasures(made.redis, made.store, queue)
        self.eraser = self.make()

    def make(self, store: Store | None = None) -> Eraser:
        return make_eraser(self.made, store)

    async def erase(self, *customers: str, owner: str = "", **members: Any) -> str:
        one = Tombstone("", PROJECT, 0, customers or None, **members)
        return (await self.erasures.begin(one, 0, owner)).erasure_id

    async def ask(self, *customers: str, **members: Any) -> Report:
        """As a client does: count, then erase."""
        return await self.begin(await self.count(*customers, **members))

    async def count(self, *customers: str, **members: Any) -> tuple[Wanted, Matched]:
        """What the request means, and what the store holds of it."""
        filters = list(members.pop("filters", ()))
        if customers:
            names = {"field_name": "customer_identifier", "op": "in", "value": list(customers)}
            filters.append(names)
        body = msgspec.json.encode({"filters": filters, **members})
        grant = Grant(KeyType.DELETE, "key", "acc", PROJECT)
        wanted = read_erasure(body, grant, time.time_ns() // 1_000_000)
        horizon_ms = await self.erasures.horizon_ms()
        scope = Scope(PROJECT, None, await self.erasures.hidden(PROJECT))
        return wanted, await count(cast(Turn, _Turn(self.made.store, scope)), wanted, horizon_ms)

    async def begin(self, counted: tuple[Wanted, Matched]) -> Report:
        wanted, matched = counted
        return await self.erasures.begin(wanted.tombstone, matched.events, "", latest_ms=matched.latest_ms)

    async def step(self, times: int = 2) -> None:
        for _ in range(times):
            await self.eraser.step()

    async def rows_gone(self, erasure_id: str) -> None:
        """No row is in the store any more; what is left to be proven is not looked at."""

        async def are_gone() -> bool:
            await self.step(1)
            report = await self.erasures.report(PROJECT, erasure_id)
            return report is not None and report.rows_gone_at is not None

        await async_until(are_gone, 60, "the rows to be gone")

    async def done(self, erasure_id: str) -> Report:
        """When it is; every step in between."""

        async def is_done() -> Report | None:
            await self.eraser.step()
            report = await self.erasures.report(PROJECT, erasure_id)
            return report if report is not None and report.state == "done" else None

        return await async_until(is_done, 90, "the erasure to be done")

    async def customers(self) -> list[tuple[object, object]]:
        sql = "SELECT customer_identifier, count() FROM events GROUP BY ALL ORDER BY ALL"
        return [(name, number) for name, number in (await self.made.store.ask(sql)).rows]

    async def assert_clean(self) -> None:
        """`verify` finds no difference, at once."""
        report = await Verifier(
            self.made.redis, self.made.store, self.reader, since_hour=None, wait_seconds=5
        ).run()
        assert report.differences == []
        assert report.moving == []


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer need not wait for the clocks of edges that there are not."""
    monkeypatch.setattr(erasures, "LEAD_MS", 50)
    monkeypatch.setattr(erasures, "ATTEMPTS", 10)
    monkeypatch.setattr(erasures, "MAX_COSTLY", 2)


@contextlib.asynccontextmanager
async def scene(opened: Open) -> AsyncIterator[Scene]:
    async with opened() as made:
        yield Scene(made)


class Killed(BaseException):
    """What kill -9 is to a task: nothing of ours catches it."""


class MortalStore(Store):
    """Kills whoever uses it: after so many more statements, before or after the last of them is carried out."""

    left = -1
    is_before = True

    async def _post(self, *arguments: Any, **options: Any) -> bytes:
        self.left -= 1
        if self.left == 0 and self.is_before:
            raise Killed
        answer = await super()._post(*arguments, **options)
        if self.left == 0:
            raise Killed
        return answer


def mortal(made: Bench) -> MortalStore:
    settings = made.settings
    return MortalStore(
        settings.clickhouse_url,
        database=settings.store.database,
        username=settings.store.username,
        password=settings.secret("CLICKHOUSE_PASSWORD"),
    )


async def killed_after(here: Scene, store: MortalStore, statements: int, *, is_before: bool) -> bool:
    """An eraser that dies; was it still at work?"""
    store.left, store.is_before = statements, is_before
    eraser = here.make(store)
    try:
        for _ in range(3):
            await eraser.step()
    except Killed:
        return True
    finally:
        store.left = -1
        await here.made.redis.delete(scripts.ERASER)  # its place ends by itself, a minute later
    return False
