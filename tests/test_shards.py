"""The number of partitions: recorded by the first start, kept by everybody, changed while nobody is at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from app import layout, presence, redis_client
from app.layout import Change, Expected, Layout, LayoutError, Obstacle
from app.partition import Freshness
from app.presence import EdgePresence, Presence
from app.producer import NotTaken, Producer
from app.settings import Settings
from app.stream import Keys, Role
from tests.pipeline_kit import make_settings, put, record
from tests.service import StartService
from tests.sharing_kit import queue
from tests.store_fixture import StoreServer
from tests.waiting import async_until
from workers import shards
from workers.cli import main


class Made:
    """A Redis, and processes that say they are alive."""

    def __init__(self, settings: Settings, redis: Redis, version: tuple[int, int]) -> None:
        self.settings = settings
        self.redis = redis
        self.version = version

    def presence(
        self,
        role: Role,
        id: str,
        shards: int,
        *,
        spooled: int = 0,
        life: float = 30,
        place: str = "here",
    ) -> Presence:
        return Presence(
            self.redis,
            Expected("events", shards),
            role,
            id=id,
            place=place,
            life_seconds=life,
            redis_version=self.version,
            spooled=lambda: spooled,
        )

    async def change(self, number: int) -> list[str]:
        return await shards.try_change(self.redis, self.settings, number)


@contextlib.asynccontextmanager
async def opened(directory: Path, redis_url: str) -> AsyncIterator[Made]:
    settings = make_settings(directory, redis_url)
    redis = redis_client.connect(settings)
    try:
        yield Made(settings, redis, await redis_client.wait_for_version(redis, asyncio.Event()))
    finally:
        await redis.aclose()


def test_the_first_start_records_the_number_and_others_are_told(tmp_path: Path, redis_url: str) -> None:
    async def run() -> None:
        async with opened(tmp_path, redis_url) as made:
            assert await layout.read(made.redis, "events") is None
            view = await made.presence("edge", "e", 2).beat()
            assert view is not None
            assert view.layout == Layout(2, 2)
            with pytest.raises(LayoutError) as raised:
                await made.presence("drain", "d", 3).beat()
            assert "shards = 3" in str(raised.value)
            assert "set queues.producers[0].shards = 2" in str(raised.value)
            assert "eventbunker shards 3" in str(raised.value)
            assert not await presence.listed(made.redis, "events", "drain"), "who is refused is not at work"

    asyncio.run(run())


def test_everything_that_is_in_the_way_is_named(tmp_path: Path, redis_url: str) -> None:
    """Safeguards: beats of edges and drains, entries, plans, dead letters, spools; then the change."""

    async def run() -> None:
        async with opened(tmp_path, redis_url) as made:
            redis = made.redis
            edge, drain = made.presence("edge", "e", 2, spooled=7), made.presence("drain", "d", 2)
            await edge.beat()
            await drain.beat()
            assert await made.change(4) == ["edge e is at work: stop it", "drain d is at work: stop it"]
            await drain.leave()
            assert await made.change(4) == ["edge e is at work: stop it"]
            await edge.leave()
            one, two = (Keys("events", number, "events-dead") for number in range(2))
            await put(redis, one, [record()])
            await redis.set(two.plan, "plan")
            await redis.xadd(two.dead, {"d": "letter"})
            stream, plan, letter, spool = await made.change(4)
            assert stream.startswith("partition 0 holds 1 group of events: start a drain with shards = 2")
            assert plan.startswith("partition 1 holds 0 groups of events")
            assert letter.startswith("partition 1 holds 1 dead letter,")
            assert spool.startswith(
                "7 groups of events in the spool at here, last seen 0 s ago: start an edge"
            )
            assert await layout.read(redis, "events") == Layout(2, 2)
            await redis.delete(one.entries, two.plan, two.dead)
            assert await made.change(4) == [spool]
            await presence.forget_dead(redis, "events", "edge")
            assert await made.change(4) == []
            assert await layout.read(redis, "events") == Layout(4, 4)
            assert await made.change(3) == []
            assert await layout.read(redis, "events") == Layout(3, 4), (
                "the fourth may be filled by a late replay"
            )

    asyncio.run(run())


def test_a_spool_is_settled_by_an_edge_of_the_same_disk(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: a spool that was left behind is in the way until somebody has replayed it."""

    async def run() -> None:
        async with opened(tmp_path, redis_url) as made:
            killed = made.presence("edge", "killed", 2, spooled=3, life=0.1)
            await killed.beat()
            other = made.presence("edge", "other", 2, place="there")

            async def is_dead() -> bool:
                await other.beat()
                return any(one.dead_ms for one in await presence.listed(made.redis, "events", "edge"))

            await async_until(is_dead, 3)
            next_edge = made.presence("edge", "next", 2, spooled=1)
            await next_edge.beat()
            assert len(await presence.listed(made.redis, "events", "edge")) == 3, "not replayed yet"
            next_edge._spooled = lambda: 0
            await next_edge.beat()
            assert {one.id for one in await presence.listed(made.redis, "events", "edge")} == {
                "other",
                "next",
            }

    asyncio.run(run())


def test_nobody_starts_while_the_number_changes(tmp_path: Path, redis_url: str) -> None:
    """Safeguard: what is looked at stays so until the new number is written; two changes exclude each other."""

    async def run() -> None:
        async with opened(tmp_path, redis_url) as made:
            drain = made.presence("drain", "d", 2)
            await drain.beat()
            await drain.leave()
            async with Change(made.redis, "events", made.version) as opening:
                assert await drain.beat() is None
                with pytest.raises(Obstacle, match="somebody else"):
                    await Change(made.redis, "events", made.version).__aenter__()
                await opening.commit(5)
            with pytest.raises(LayoutError):
                await drain.beat()
            await made.presence("drain", "d5", 5).beat()
            with pytest.raises(Obstacle, match="at work"):
                await Change(made.redis, "events", made.version).__aenter__()

    asyncio.run(run())


def test_an_edge_of_another_number_does_not_start_and_one_that_was_cut_off_ends(
    tmp_path: Path, redis_url: str
) -> None:
    """Safeguards: the first beat, later beats, and the question with each new connection."""

    async def run() -> None:
        async with opened(tmp_path, redis_url) as made:
            redis = made.redis
            ended = asyncio.Event()
            seen: list[Layout] = []
            expected = Expected("events", 2)
            edge = EdgePresence(redis, expected, place="here", on_layout=seen.append, on_foreign=ended.set)
            await edge.start()
            assert seen == [Layout(2, 2)]
            producer = Producer(redis.connection_pool, Keys("events", 0), expected)
            await producer.append("x", 1, [(1, b"", b"")], timeout_seconds=3)
            await redis.zrem("eb:{events}:edges", *await redis.zrange("eb:{events}:edges", 0, -1))
            await redis.delete("eb:{events:0}:entries")
            assert await made.change(3) == []
            await asyncio.wait_for(ended.wait(), 5)
            reconnected = Producer(redis.connection_pool, Keys("events", 0), Expected("events", 2))
            for one in (producer, reconnected):
                with pytest.raises(NotTaken, match="shards = 2"):
                    await one.append("x", 2, [(1, b"", b"")], timeout_seconds=3)
                await one.close()
            assert await redis.xlen("eb:{events:0}:entries") == 0
            await edge.close()
            with pytest.raises(LayoutError):
                await EdgePresence(redis, Expected("events", 2), place="here").start()

    asyncio.run(run())


def test_a_late_replay_into_a_former_partition_is_drained(
    tmp_path: Path,
    redis_url: str,
    store_server: StoreServer,
    store_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safeguard: drains watch every partition there ever was, and freshness counts what is in it."""

    async def run() -> None:
        async with queue(tmp_path, redis_url, store_server, store_database, monkeypatch, shards=3) as made:
            await made.start("a")
            await async_until(lambda: made.redis.exists(made.partitions[2].lease), 5)
            await made.stop("a")
            former = made.partitions[2]
            assert await shards.try_change(made.redis, made.settings, 1) == []
            await made.start("a", shards=1)
            await made.start("b", shards=1)
            await async_until(lambda: made.redis.exists(made.partitions[0].lease), 5)
            freshness = Freshness(made.redis, "events", 1)
            freshness.watch(3)
            await put(made.redis, former, [record()])
            oldest = (await freshness.lag())[2]
            assert oldest.is_retired
            await async_until(lambda: _is_stored(made.redis, former), 8)
            assert await made.rows() == (1, 1)

            async def given_back() -> bool:
                return not await made.redis.exists(former.lease)

            await async_until(given_back, 5)

    asyncio.run(run())


async def _is_stored(redis: Redis, keys: Keys) -> bool:
    return await redis.hget(keys.ledger, "stored") == b"1"


def test_the_command(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "deploy.toml"
    config.write_text("")
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["-c", str(config), "shards", *arguments])
        return done.exit_code, done.output

    assert run() == (0, "no edge or drain has ever worked on the queue 'events'\n")
    code, output = run("3")
    assert code == 0
    assert "3 partitions now" in output
    assert "shards = 3" in output
    code, output = run()
    assert output.startswith("3 partitions; deploy.toml says 1\n")
    assert len(output.splitlines()) == 5

    async def start_edge() -> None:
        async with opened(tmp_path, redis_url) as made:
            await made.presence("edge", "e", 3).beat()

    asyncio.run(start_edge())
    assert run("2") == (1, "nothing was changed; in the way:\n  edge e is at work: stop it\n")
    assert "edge e at work" in run()[1]
    assert run("257")[0] == 2
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    code, output = run()
    assert code == 1
    assert "check REDIS_URL" in output


@pytest.mark.service
def test_dev_changes_its_own_queue(start_service: StartService) -> None:
    """Safeguard: the number in deploy.toml can be changed where `eventbunker shards` has nobody to ask."""
    first = start_service(deploy="[[queues.producers]]\nshards = 2\n[[queues.consumers]]\n")
    assert first.stop() == 0
    second = start_service(
        deploy="[[queues.producers]]\nshards = 3\n[[queues.consumers]]\n", directory=first.directory
    )
    assert second.stop() == 0
