"""Nothing is forgotten because deploy.toml names it otherwise now: dead letters, queues, what erasures mean."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from app import dead_letter, layout, presence, queues
from app.dead_letter import DeadLetter
from app.layout import Expected, LayoutError
from app.presence import EdgePresence, Presence
from app.stream import Keys, Role
from tests.eraser_kit import PROJECT, event, nobody_waits, scene
from tests.pipeline_kit import Bench, put
from tests.pipeline_steps import Open, opened
from tests.service import StartService
from tests.waiting import async_until, until
from workers import elsewhere, shards, verify
from workers.cli import main
from workers.letters import payloads
from workers.supervisor import StartFailed

__all__ = ["nobody_waits", "opened"]

SECRET = "private@customer"


def member(made: Bench, role: Role, name: str, dead: str = "events-dead", queue: str = "events") -> Presence:
    return Presence(
        *(made.redis, Expected(queue, 1, dead_letter_queue=dead), role),
        id=name,
        place="here",
        life_seconds=30,
        redis_version=made.version,
        spooled=(lambda: 0) if role == "edge" else None,
    )


async def joined(one: Presence) -> None:
    """It is at work, perhaps after it has changed the name."""
    await async_until(one.beat, 5, "a beat")


async def recorded(made: Bench) -> str | None:
    found = await layout.read(made.redis, "events")
    return None if found is None else found.dead_letter_queue


async def lay(redis: Redis, keys: Keys, customer: str) -> None:
    """A dead letter of that customer, as a drain sets it aside."""
    one = event(customer, mail=SECRET)
    await redis.xadd(keys.dead, {"d": dead_letter.encode(DeadLetter("x", 0, "1-0", one))})
    await redis.hset(keys.dead_ids, one.unique_req_id.hex(), "1-0")


async def _now_ms(redis: Redis) -> int:
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def test_all_who_work_on_a_queue_keep_dead_letters_under_one_name(opened: Open) -> None:
    """Safeguards: the first beat, later ones, and that the name changes when nobody minds."""

    async def run() -> None:
        async with opened() as made:
            edge = member(made, "edge", "e")
            await joined(edge)
            assert await recorded(made) == "events-dead"
            drain = member(made, "drain", "d", "dl2")
            with pytest.raises(LayoutError) as raised:
                await drain.beat()
            for said in ('dead_letter_queue = "dl2"', "at work", 'dead_letter_queue = "events-dead"', "stop"):
                assert said in str(raised.value)
            assert not await presence.listed(made.redis, "events", "drain")
            await edge.leave()
            await joined(drain)
            assert await recorded(made) == "dl2"
            with pytest.raises(LayoutError, match='under the name "dl2"'):
                await edge.beat()
            with pytest.raises(LayoutError, match='under the name "dl2"'):
                await EdgePresence(
                    made.redis, Expected("events", 1, dead_letter_queue="x"), place="p"
                ).start()

    asyncio.run(run())


def test_the_name_is_recorded_after_an_upgrade_while_redis_is_full(opened: Open) -> None:
    """Safeguard: a drain must be able to start then, or nobody makes room."""

    async def run() -> None:
        async with opened() as made:
            await joined(member(made, "edge", "of a former version", ""))
            await made.redis.config_set("maxmemory", "1")
            try:
                await joined(member(made, "drain", "d"))
            finally:
                await made.redis.config_set("maxmemory", "0")
            assert await recorded(made) == "events-dead"

    asyncio.run(run())


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "of a former version"])
def test_dead_letters_are_not_left_behind_under_another_name(opened: Open, is_recorded: bool) -> None:
    async def run() -> None:
        async with opened() as made:
            first = member(made, "drain", "d", "events-dead" if is_recorded else "")
            await joined(first)
            await first.leave()
            await lay(made.redis, made.keys, "anna")
            renamed = member(made, "drain", "d", "dl2")
            for _ in range(2):
                with pytest.raises(LayoutError) as raised:
                    await renamed.beat()
            for said in ("partition 0 holds 1 dead letter", '"events-dead"', "`eventbunker dead`", '"dl2"'):
                assert said in str(raised.value)
            assert await recorded(made) == ("events-dead" if is_recorded else "")
            again = member(made, "drain", "d")
            await joined(again)
            await again.leave()
            await made.redis.delete(made.keys.dead)
            await joined(renamed)

    asyncio.run(run())


def test_dev_waits_for_its_former_life_and_then_changes_the_name(opened: Open) -> None:
    async def run() -> None:
        async with opened() as made:
            consumer = msgspec.structs.replace(made.settings.consumer, dead_letter_queue="dl2")
            settings = msgspec.structs.replace(made.settings, consumer=consumer)
            killed = member(made, "edge", "e")
            await joined(killed)
            await made.redis.zadd("eb:{events}:edges", {"e": await _now_ms(made.redis) + 400})
            await shards.adapt(settings)
            assert await recorded(made) == "dl2"
            await lay(made.redis, Keys("events", 0, "dl2"), "anna")
            with pytest.raises(StartFailed, match='1 dead letter under the name "dl2"'):
                await shards.adapt(made.settings)

    asyncio.run(run())


def test_a_command_that_would_look_under_the_wrong_name_says_so(
    opened: Open, tmp_path: Path, redis_url: str
) -> None:
    async def prepare() -> None:
        async with opened() as made:
            await joined(member(made, "drain", "d", "dl2"))

    asyncio.run(prepare())
    config = tmp_path / "deploy.toml"
    config.write_text("")
    done = CliRunner().invoke(main, ["-c", str(config), "dead", "list"], env={"REDIS_URL": redis_url})
    assert (done.exit_code, done.stdout) == (1, "")
    assert 'set queues.consumers[0].dead_letter_queue = "dl2"' in done.stderr


def test_an_erasure_finds_letters_under_every_name_and_in_every_queue(opened: Open) -> None:
    """And gives up nobody else's."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            redis = here.made.redis
            places = [Keys("events", 0, "former"), Keys("events", 7, "events-dead"), Keys("other", 2, "dl")]
            for keys in places:
                await lay(redis, keys, "anna")
                await lay(redis, keys, "bert")
            report = await here.done(await here.erase("anna"))
            assert report.remaining.dead_letters == 0
            assert report.counted.dead_letters == len(places)
            for keys in places:
                left = [payload async for _, payload in payloads(redis, keys)]
                assert len(left) == 1
                assert b"bert" in left[0]

    asyncio.run(run())


def test_an_erasure_waits_for_the_streams_and_spools_of_other_queues(opened: Open) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            redis, other = here.made.redis, Keys("other", 0)
            await put(redis, other, [event("anna", mail=SECRET)])
            killed = member(here.made, "edge", "killed", queue="other")
            await killed.beat()
            await redis.zadd("eb:{other}:edges", {"killed": await _now_ms(redis) - 1})
            erasure = await here.erase("anna")
            await here.rows_gone(erasure)

            async def left(name: str) -> int | None:
                await here.step(1)
                report = await here.erasures.report(PROJECT, erasure)
                assert report is not None
                assert report.state == "pending"
                found = getattr(report.remaining, name)
                return int(found) if found else None

            assert await async_until(lambda: left("spools"), 10) == 1
            await presence.forget_dead(redis, "other", "edge")
            assert await async_until(lambda: left("stream"), 10) == 1
            await redis.xtrim(other.entries, maxlen=0)  # as a drain of that queue acknowledges
            assert set(msgspec.to_builtins((await here.done(erasure)).remaining).values()) == {0}

    asyncio.run(run())


def test_what_nobody_works_on_is_named_with_what_to_do(
    opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is said of a queue that another service works on."""

    async def run() -> Bench:
        async with opened() as made:
            redis, settings = made.redis, made.settings
            for name in ("served", "left"):
                await put(redis, Keys(name, 0), [event("anna")])
                await lay(redis, Keys(name, 1, "dl"), "anna")
                await redis.hset(Keys(name, 0).ledger, "stored", 5)
            drain = member(made, "drain", "d", queue="served")
            await joined(drain)
            await lay(redis, Keys("events", 0, "former"), "anna")
            await redis.set("eb:{left:0}:nonsense", "of another type")
            await redis.set("eb:{le ft:0}:entries", "of nobody")
            assert (await queues.find(redis)).names == {"events", "served", "left"}
            own, left = await elsewhere.describe(redis, settings)
            for said in (
                "1 dead letter of this queue",
                'dead_letter_queue = "former"',
                "`eventbunker dead`",
            ):
                assert said in own
            for said in (
                '"left" holds 1 group of events',
                '1 dead letter under the name "dl"',
                'queue = "left"',
            ):
                assert said in left
            assert await elsewhere.counted(redis, settings) == [
                f'queue "{name}" has counted 5 stored events, whose rows are foreign here'
                for name in ("left", "served")
            ]
            await redis.delete("eb:{left:0}:entries", "eb:{left:1}:dl", "eb:{events:0}:former")
            assert await elsewhere.describe(redis, settings) == []
            await member(made, "edge", "killed", queue="left").beat()
            await redis.zadd("eb:{left}:edges", {"killed": await _now_ms(redis) - 1})
            [left] = await elsewhere.describe(redis, settings)
            assert "perhaps events in spools of 1 edge that ended" in left
            return made

    settings = asyncio.run(run()).settings
    capsys.readouterr()
    assert verify.verify(settings, since_ms=None, wait_seconds=1, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "elsewhere in this Redis: not compared\n  queue " in shown
    assert shown.endswith("clean\n")


@pytest.mark.service
def test_a_service_does_not_start_away_from_its_dead_letters_and_names_the_queue_it_left(
    start_service: StartService,
) -> None:
    first = start_service()
    directory, state = first.directory, first.state

    async def leave() -> None:
        redis = Redis(unix_socket_path=str(first.redis_socket))
        await lay(redis, Keys("events", 0, "events-dead"), "anna")
        await redis.aclose()

    asyncio.run(leave())
    assert first.stop() == 0
    refused = start_service(
        deploy='[[queues.consumers]]\ndead_letter_queue = "dl2"\n', directory=directory, wait=False
    )
    assert refused.process.wait(60) == 1
    last = json.loads(refused.log.splitlines()[-1])
    assert 'set queues.consumers[0].dead_letter_queue = "events-dead"' in last["message"]
    assert "Traceback" not in refused.log
    renamed = '[[queues.producers]]\nqueue = "q2"\n[[queues.consumers]]\nqueue = "q2"\n'
    second = start_service(deploy=renamed, directory=directory)

    def warned() -> bool:
        return any(
            'queue "events" holds 1 dead letter' in str(line["what"])
            for line in second.logged("something lies where no drain works")
        )

    until(warned, 40, "the warning")
    told = second.eventbunker("verify", "--state", str(state))
    assert 'queue "events" holds 1 dead letter' in told.stdout
    assert second.stop() == 0
