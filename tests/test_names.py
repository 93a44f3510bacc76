"""Distinct event names and field paths: the caps are exact over all edges, and known names cost nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis
from redis import asyncio as redis_asyncio

from app import names as module
from app import registry_scripts as scripts
from app.errors import ApiError, Kind
from app.names import REFUSAL_SECONDS, Names, Refused
from app.settings import Settings
from tests.redis_fixture import RedisServer, start_redis
from tests.registries import calls, following, new_project, registries, registry, settings_for
from tests.waiting import async_until

FELT_SECONDS = 1.0
NAMES, PATHS = 20, 30
ASKING = ("hkeys", "hgetall", "hget", "hmget", "hlen", "hexists", "evalsha", "eval", "get")


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(
        redis_url, tmp_path, f"[limits]\nmax_event_names = {NAMES}\nmax_field_paths = {PATHS}\n"
    )


def in_use(url: str, project_id: str, kind: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(url) as client:
        found: dict[bytes, bytes] = client.hgetall(scripts.names(project_id, kind))
        return found


def test_the_cap_is_exact_whoever_asks_at_the_same_time(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id = await new_project(one)
            results = await asyncio.gather(
                *(
                    edge.names.admit(project_id, [f"name{number}"], [f"path{number}"])
                    for number in range(60)
                    for edge in (one, other)
                )
            )
            admitted = {f"name{index // 2}".encode() for index, refused in enumerate(results) if not refused}
            assert len(admitted) == min(NAMES, PATHS)
            assert in_use(redis_url, project_id, "event_name").keys() == admitted
            assert len(in_use(redis_url, project_id, "field_path")) == len(admitted)

    asyncio.run(run())


def test_what_can_never_fit_is_refused_without_asking(settings: Settings, redis_url: str) -> None:
    """Safeguard: a batch may bring hundreds of thousands of names; the script would hold up Redis."""

    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            names = [f"name{number:06}" for number in range(100_000)]
            await one.names.load(project_id)
            before = calls(redis_url, *ASKING)
            refused = await one.names.admit(project_id, names, names)
            assert calls(redis_url, *ASKING) == before
            assert refused == Refused(frozenset(names[NAMES:]), frozenset(names[PATHS:]))
            assert not await one.names.admit(project_id, names[:NAMES], names[:PATHS])

    asyncio.run(run())


def test_both_edges_agree_on_every_single_name(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id = await new_project(one)
            names = [f"n{number}" for number in range(3 * NAMES)]
            first = [await one.names.admit(project_id, [name], []) for name in names]
            second = [await other.names.admit(project_id, [name], []) for name in names]
            assert [bool(refused) for refused in first] == [False] * NAMES + [True] * 2 * NAMES
            assert first == second
            assert first[-1] == Refused(event_names=frozenset({names[-1]}))

    asyncio.run(run())


def test_an_event_takes_all_its_places_or_none(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            assert not await one.names.admit(project_id, ["e"], [f"p{number}" for number in range(PATHS - 1)])
            refused = await one.names.admit(project_id, ["fresh"], ["a", "b"])
            assert refused == Refused(field_paths=frozenset({"b"}))
            assert b"fresh" not in in_use(redis_url, project_id, "event_name")
            assert len(in_use(redis_url, project_id, "field_path")) == PATHS - 1
            # Each alone fits.
            fits = time.monotonic()

            async def is_admitted() -> bool:
                return not await one.names.admit(project_id, ["fresh"], ["b"])

            await async_until(is_admitted, REFUSAL_SECONDS + 1, "the one that fits")
            assert time.monotonic() - fits <= REFUSAL_SECONDS + 1
            assert await one.names.admit(project_id, ["fresh"], ["a"])

    asyncio.run(run())


def test_a_name_that_stands_twice_takes_one_place(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            assert not await one.names.admit(project_id, ["e"] * (NAMES + 1), ["p"] * (PATHS + 1))
            others = [f"e{number}" for number in range(NAMES - 1)]
            assert not await one.names.admit(project_id, others, [])

    asyncio.run(run())


def test_each_project_has_its_own_places(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            full, empty = await new_project(one), await new_project(one)
            assert not await one.names.admit(full, [f"n{number}" for number in range(NAMES)], [])
            assert await one.names.admit(full, ["more"], [])
            assert not await one.names.admit(empty, ["more"], [])

    asyncio.run(run())


def test_known_names_cost_no_redis_call(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            await following(one)
            project_id = await new_project(one)
            await one.names.load(project_id)
            assert not await one.names.admit(project_id, ["e"], ["a", "b"])
            before = calls(redis_url, *ASKING)
            for _ in range(1000):
                known = one.names.known(project_id)
                assert known is not None
                assert "e" in known.event_names
                assert known.field_paths.issuperset(("a", "b"))
                one.names.touch(project_id, "e", ("a", "b"))
            assert calls(redis_url, *ASKING) == before

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["event_name", "field_path"])
@pytest.mark.parametrize("flood", ["the same name", "names at random"])
def test_refusals_cost_no_redis_call_each_and_end_within_a_second(
    settings: Settings, redis_url: str, kind: str, flood: str
) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            await following(one)
            project_id = await new_project(one)
            names, paths = [f"n{i}" for i in range(NAMES)], [f"p{i}" for i in range(PATHS)]
            assert not await one.names.admit(project_id, names, paths)

            async def ask(name: str) -> Refused:
                return await one.names.admit(
                    project_id,
                    [name if kind == "event_name" else "n0"],
                    [name] if kind == "field_path" else [],
                )

            assert await ask("x")
            before, began = calls(redis_url, "evalsha", "eval", "hkeys"), time.monotonic()
            for number in range(1000):
                name = "x" if flood == "the same name" else f"x{number}"
                refused = await ask(name)
                assert (refused.event_names or refused.field_paths) == {name}
            rounds = 1 + (time.monotonic() - began) / REFUSAL_SECONDS
            assert calls(redis_url, "evalsha", "eval", "hkeys") - before <= 4 * rounds
            # A place that becomes free without a word to this process.
            with redis.Redis.from_url(redis_url) as client:
                client.hdel(scripts.names(project_id, kind), "n1", "p1")
            freed = time.monotonic()

            async def is_admitted() -> bool:
                return not await ask("x")

            await async_until(is_admitted, REFUSAL_SECONDS + 1, "asked again")
            assert time.monotonic() - freed <= REFUSAL_SECONDS + 1

    asyncio.run(run())


def test_refusals_and_uses_that_are_remembered_have_few_names() -> None:
    """Safeguard: ten thousand of them may have three hundred names each."""
    refusals, most = module._Refusals(), 0
    names = Names(redis_asyncio.Redis(), NAMES, PATHS)
    for number in range(1000):
        paths = tuple(f"f{number}.{at}" for at in range(250))
        refused = Refused(field_paths=frozenset(paths))
        for _ in range(2):
            shape = module._Shape(f"prj_{number % 2}", ("e",), paths)
            refusals.add(shape, refused)
            assert refusals.get(shape, time.monotonic()) == refused
            names.touch("prj_1", "e", paths)
        held = sum(len(one.event_names) + len(one.field_paths) for one in refusals._found)
        assert held == refusals._names <= module.MAX_REFUSED_NAMES
        most = max(most, held)
    assert most > module.MAX_REFUSED_NAMES // 2
    assert sum(1 + len(paths) for _, _, paths in names._uses) <= module.MAX_NOTED_NAMES + 250
    refusals.forget("prj_1")
    assert {one.project_id for one in refusals._found} == {"prj_0"}
    refusals.forget("prj_0")
    assert refusals._names == 0


def test_a_name_admitted_elsewhere_is_not_refused_here(settings: Settings) -> None:
    """In a full project, an edge that does not know a name yet must not take it for a new one."""

    async def run() -> None:
        async with registries(settings) as (one, other):
            await following(one)
            await following(other)
            project_id = await new_project(one)
            await other.names.load(project_id)  # knows that there are none
            assert not await one.names.admit(project_id, [f"n{number}" for number in range(NAMES)], [])
            assert await other.names.admit(project_id, ["flood"], [])
            for number in range(NAMES):
                assert not await other.names.admit(project_id, [f"n{number}"], [])

    asyncio.run(run())


def test_a_deleted_name_frees_its_place_on_every_edge(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            await following(one)
            await following(other)
            project_id = await new_project(one)
            names, paths = [f"n{i}" for i in range(NAMES)], [f"p{i}" for i in range(PATHS)]
            assert not await one.names.admit(project_id, names, paths)
            for edge in (one, other):
                await edge.names.load(project_id)
                assert await edge.names.admit(project_id, ["new"], ["new.path"])
            assert await one.names.delete(project_id, ["n0", "never"], ["p0", "p1"]) == 3
            began = time.monotonic()

            async def is_admitted() -> bool:
                return not await other.names.admit(project_id, ["new"], ["new.path"])

            await async_until(is_admitted, FELT_SECONDS, "the place on the other edge")
            assert time.monotonic() - began < FELT_SECONDS

            async def is_forgotten() -> bool:
                known = [edge.names.known(project_id) for edge in (one, other)]
                return all(each is None or "n0" not in each.event_names for each in known)

            await async_until(is_forgotten, FELT_SECONDS, "the deleted name forgotten")
            assert await one.names.admit(project_id, ["n0"], [])  # its place is taken

    asyncio.run(run())


def test_a_use_noted_before_the_deletion_does_not_bring_the_name_back(
    settings: Settings, redis_url: str
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id = await new_project(one)
            await one.names.admit(project_id, ["gone", "kept"], ["gone.path"])
            other.names.touch(project_id, "gone", ("gone.path",))
            other.names.touch(project_id, "kept", ())
            await one.names.delete(project_id, ["gone"], ["gone.path"])
            await other.names.flush()
            assert in_use(redis_url, project_id, "event_name").keys() == {b"kept"}
            assert in_use(redis_url, project_id, "field_path") == {}

    asyncio.run(run())


def test_last_use_is_flushed(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            await one.names.admit(project_id, ["used", "unused"], ["path", "idle"])
            long_ago = {"used": 5, "unused": 5, "path": 5, "idle": 5}
            with redis.Redis.from_url(redis_url) as client:
                for kind, names in (("event_name", ("used", "unused")), ("field_path", ("path", "idle"))):
                    client.hset(scripts.names(project_id, kind), mapping={n: long_ago[n] for n in names})
            before = int(time.time())
            one.names.touch(project_id, "used", ("path",))
            await one.names.flush()
            listed = await one.names.list(project_id, "event_name")
            paths = await one.names.list(project_id, "field_path")
            assert listed["unused"] == paths["idle"] == 5
            assert before <= listed["used"] <= time.time()
            assert before <= paths["path"] <= time.time()

    asyncio.run(run())


def test_names_of_a_deleted_project_are_refused_everywhere(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            await other.names.admit(project.project_id, ["e"], ["p"])
            await one.accounts.delete_project(account.account_id, project.project_id)
            for edge in (one, other):
                with pytest.raises(ApiError) as refused:
                    await edge.names.admit(project.project_id, ["new"], [])
                assert refused.value.kind is Kind.INVALID_WRITE_KEY
            other.names.touch(project.project_id, "e", ("p",))
            await other.names.flush()
            assert in_use(redis_url, project.project_id, "event_name") == {}

    asyncio.run(run())


def test_without_redis_known_names_are_known_and_new_ones_a_503(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    directory.mkdir()
    server: RedisServer = start_redis(directory)
    settings = settings_for(server.url, tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            await following(one)
            project_id, unseen = await new_project(one), await new_project(one)
            await one.names.load(project_id)
            assert not await one.names.admit(project_id, ["e"], ["a"])
            server.stop()
            known = one.names.known(project_id)
            assert known is not None
            assert known.event_names == {"e"}
            for call in (one.names.admit(project_id, ["new"], []), one.names.load(unseen)):
                with pytest.raises(ApiError) as refused:
                    await call
                assert refused.value.kind is Kind.UNAVAILABLE
                assert refused.value.retry_after_seconds

    asyncio.run(run())
