"""The canary finds its events in the store, tells what is wrong with them, and is quiet when others know why."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from prometheus_client.registry import REGISTRY

from app import canary as canaries
from app import redis_client
from app.canary import Canary
from app.partition import Freshness
from app.store import Store
from tests import plain_http
from tests.append_edge import Edge
from tests.client import Client
from tests.pipeline_kit import Bench, entries, make_settings
from tests.pipeline_steps import Open, opened
from tests.service import Service
from tests.waiting import async_until, until

__all__ = ["opened"]

NOW = "SETTINGS mutations_sync = 2"
ONE = "SELECT * FROM events WHERE project_id = 'canary' ORDER BY time_recorded LIMIT 1"


class Cage:
    """A canary whose edge, stream and store are real; `away` is what others would know."""

    def __init__(self, made: Bench, store: Store | None = None) -> None:
        self.made = made
        self.edge = Edge(made.settings, made.redis)
        self.away = ""
        freshness = Freshness(made.redis, made.settings.producer.queue, 1)
        self.canary = Canary(
            [self.edge.appender], store or made.store, freshness, lambda: self.away, interval_seconds=0.2
        )

    async def failed(self, kind: str) -> bool:
        return kind in self.canary.problem()

    async def is_well(self) -> bool:
        return not self.canary.problem()

    async def has_found(self, number: int) -> bool:
        return sum(one.found for one in self.canary._watched) >= number


@contextlib.asynccontextmanager
async def flying(made: Bench, store: Store | None = None) -> AsyncIterator[Cage]:
    """A canary at work."""
    cage = Cage(made, store)
    task = asyncio.create_task(cage.canary.run())
    try:
        yield cage
    finally:
        began = time.monotonic()
        await redis_client.stop_tasks(task)
        await cage.edge.appender.close()
        assert time.monotonic() - began < 1, "it holds up the stop"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "DUE_SECONDS", 1.0)
    monkeypatch.setattr(canaries, "CLOCK_SLACK_MS", 100)
    monkeypatch.setattr(canaries, "RECOUNT_SECONDS", 0.3)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def failures(kind: str) -> float:
    return metric("eventbunker_canary_failures_total", kind=kind)


def test_a_canary_goes_down_the_real_path_and_is_found(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made, made.draining(), flying(made) as cage:
            before = metric("eventbunker_canary_seconds_count", partition="0")
            await async_until(lambda: cage.has_found(4), 15, "four canaries")
            assert metric("eventbunker_canary_seconds_count", partition="0") >= before + 3
            assert 0 < metric("eventbunker_canary_last_seconds", partition="0") < 5
            assert cage.canary.problem() == ""
            assert "found" in cage.canary.describe()
            names = cast("list[bytes]", await made.redis.hkeys(made.keys.hours))
            assert {name.split(b"|")[0] for name in names} == {canaries.PROJECT.encode()}

    asyncio.run(run())


def test_one_that_is_doubled_altered_or_gone_is_told(opened: Open) -> None:
    """Also of those that were found before: they are counted again for an hour."""

    async def run() -> None:
        async with opened() as made, made.draining(), flying(made) as cage:
            await async_until(lambda: cage.has_found(3), 15)
            for kind, damage in (
                ("altered", f"ALTER TABLE events UPDATE body = replace(body, '🐤', '') WHERE 1 {NOW}"),
                ("doubled", f"INSERT INTO events {ONE}"),
                ("missing", f"ALTER TABLE events DELETE WHERE 1 {NOW}"),
            ):
                before = failures(kind)
                await made.store.command(damage)
                await async_until(lambda kind=kind: cage.failed(kind), 15, kind)  # type: ignore[misc]
                assert failures(kind) > before

    asyncio.run(run())


def test_one_that_may_be_queued_is_late_and_one_that_cannot_be_is_missing(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made, flying(made) as cage:
            await async_until(lambda: cage.failed("late"), 15, "late")
            assert not await cage.failed("missing")
            async with made.draining():
                await async_until(cage.is_well, 15, "the late ones are found")
            # Nobody drains again, and somebody removes what waits.
            await async_until(lambda: cage.failed("late"), 15, "late")
            for entry_id, _ in await entries(made.redis, made.keys.entries):
                await made.redis.xdel(made.keys.entries, entry_id)
            await async_until(lambda: cage.failed("missing"), 15, "missing")

    asyncio.run(run())


def test_it_is_quiet_about_what_others_know(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis or the store being away stops its clock; the failures have names of their own."""

    async def run() -> None:
        async with opened() as made, flying(made) as cage:
            cage.away = "Redis does not answer"
            await async_until(lambda: many(cage, 10), 15)  # twice the time after which one is due
            assert cage.canary.problem() == ""
            assert cage.canary.describe() == "waits: Redis does not answer"

        nowhere = Store("http://127.0.0.1:9", database="d", username="u", password="")
        before = failures("not_asked")
        async with opened() as made, flying(made, nowhere) as cage:
            await async_until(lambda: many(cage, 10), 15)
            assert cage.canary.problem() == ""
            assert "the store does not answer" in cage.canary.describe()
        assert failures("not_asked") > before
        await nowhere.close()

    async def many(cage: Cage, number: int) -> bool:
        return cage.canary._number >= number

    asyncio.run(run())


def test_one_that_cannot_be_sent_is_no_failure_of_the_pipeline(tmp_path: Path, opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            gone = make_settings(tmp_path, f"unix://{tmp_path}/none.sock", limits={"append_timeout": 0.2})
            settings = msgspec.structs.replace(made.settings, redis_url=gone.redis_url, limits=gone.limits)
            redis = redis_client.connect(settings)
            cage = Cage(Bench(settings, redis, made.store, made.version))
            before = failures("not_sent")
            await cage.canary._send()
            assert failures("not_sent") == before + 1
            assert cage.canary.problem() == ""
            assert cage.canary.describe().startswith("waits: ")
            assert not cage.canary._watched
            await cage.edge.appender.close()
            await redis.aclose()

    asyncio.run(run())


def test_what_it_remembers_is_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened() as made:
            cage = Cage(made)
            assert cage.canary._watched.maxlen == canaries.MAX_WATCHED
            await cage.canary._send()
            monkeypatch.setattr(canaries, "WATCHED_SECONDS", 0.0)
            await cage.canary._send()
            assert [one.number for one in cage.canary._watched] == [2]
            await cage.edge.appender.close()

    asyncio.run(run())


@pytest.mark.service
def test_a_running_service_watches_itself(service: Service, client: Client) -> None:
    def found() -> bool:
        lines = plain_http.get(f"{service.url}/metrics", timeout=5).text.splitlines()
        return any(line.startswith("eventbunker_canaries_total ") and line[-3:] != "0.0" for line in lines)

    until(found, 20, "a canary")
    checks = plain_http.get(f"{service.url}/readyz?verbose", timeout=5).json()["checks"]
    assert next(check for check in checks if check["name"] == "canary")["ok"]
