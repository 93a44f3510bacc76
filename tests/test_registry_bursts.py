"""The registry under bursts, races and a full Redis: what single requests never show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from app import redis_client
from app import registry_scripts as scripts
from app.accounts import Accounts
from app.errors import ApiError, Kind
from app.grant import KeyType
from app.registry import Registry
from app.settings import Settings
from tests.registries import calls, new_project, registry, remembered, seconds_until, settings_for, verdict

CLOSES = 100  # redis-py lost about 2 cancellations in 100


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(redis_url, tmp_path)


def test_a_key_revoked_between_its_first_lookup_and_the_first_read_of_changes_is_dead(
    settings: Settings,
) -> None:
    async def run() -> None:
        client = redis_client.connect(settings)
        edge = Registry(client, settings)  # its follower does not run yet
        elsewhere = Accounts(client)
        project_id = await new_project(edge)
        key = await elsewhere.create_key(project_id, KeyType.WRITE)
        living = await elsewhere.create_key(project_id, KeyType.WRITE)
        await edge.authorise(key.api_key, KeyType.WRITE)
        await elsewhere.delete_key(project_id, api_key_id=key.api_key_id)
        await edge.start()
        await seconds_until(edge, key.api_key, Kind.INVALID_WRITE_KEY, 1)
        await remembered(edge, living.api_key)
        await edge.close()
        await client.aclose()

    asyncio.run(run())


def test_hundreds_of_first_requests_at_once_are_all_served(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            keys = [(await one.accounts.create_key(project_id, KeyType.WRITE)).api_key for _ in range(300)]
            await asyncio.gather(*(one.authorise(key, KeyType.WRITE) for key in keys))
            await asyncio.gather(*(one.names.load(project_id) for _ in range(300)))
            await asyncio.gather(*(one.names.admit(project_id, [f"n{i}"], []) for i in range(300)))
            assert len(await one.names.list(project_id, "event_name")) == 300

    asyncio.run(run())


def test_equal_questions_at_once_are_one_call(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            key = await one.accounts.create_key(project_id, KeyType.WRITE)
            before = calls(redis_url, "get")
            await asyncio.gather(*(one.authorise(key.api_key, KeyType.WRITE) for _ in range(500)))
            assert calls(redis_url, "get") - before <= 2

    asyncio.run(run())


def test_a_caller_that_goes_away_does_not_take_the_answer_with_it(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            key = await one.accounts.create_key(project_id, KeyType.WRITE)
            first = asyncio.create_task(one.authorise(key.api_key, KeyType.WRITE))
            second = asyncio.create_task(one.authorise(key.api_key, KeyType.WRITE))
            await asyncio.sleep(0)  # both wait for the one lookup
            first.cancel()
            assert (await second).project_id == project_id

    asyncio.run(run())


def test_it_always_closes(settings: Settings) -> None:
    async def run() -> None:
        for number in range(CLOSES):
            client = redis_client.connect(settings)
            one = Registry(client, settings)
            await one.start()
            await asyncio.sleep(number * 0.0011)  # meets the follower at every point of its round
            async with asyncio.timeout(4):
                await one.close()
            await client.aclose()

    asyncio.run(run())


def test_new_names_of_a_full_project_are_refused_from_memory(redis_url: str, tmp_path: Path) -> None:
    settings = settings_for(redis_url, tmp_path, "[limits]\nmax_event_names = 50\nmax_field_paths = 50\n")

    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            assert not await one.names.admit(
                project_id, [f"n{i}" for i in range(50)], [f"f{i}" for i in range(50)]
            )
            assert await one.names.admit(project_id, ["first"], [])
            before = calls(redis_url, "evalsha", "hkeys")
            for number in range(500):
                assert (await one.names.admit(project_id, [f"x{number}"], ["f0"])).event_names == {
                    f"x{number}"
                }
                assert (await one.names.admit(project_id, ["n0"], [f"x{number}"])).field_paths == {
                    f"x{number}"
                }
                assert not await one.names.admit(project_id, ["n1"], ["f1"])
            assert calls(redis_url, "evalsha", "hkeys") - before <= 10  # one reload a second
            await one.names.delete(project_id, ["n7"], [])
            assert not await one.names.admit(project_id, ["x1"], [])

    asyncio.run(run())


def test_keys_and_projects_can_be_revoked_on_a_redis_that_is_out_of_memory(
    settings: Settings, redis_url: str
) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            made = [await one.accounts.create_key(project.project_id, KeyType.WRITE) for _ in range(2)]
            with redis.Redis.from_url(redis_url) as admin:
                limit = admin.config_get("maxmemory")["maxmemory"]
                admin.config_set("maxmemory", "1mb")
                try:
                    with pytest.raises(redis.exceptions.ResponseError):  # so it is full
                        await one.accounts.create_key(project.project_id, KeyType.WRITE)
                    await one.accounts.delete_key(project.project_id, api_key_id=made[0].api_key_id)
                    await one.accounts.reset_master_key(account.account_id, project.project_id)
                    await one.accounts.delete_project(account.account_id, project.project_id)
                finally:
                    admin.config_set("maxmemory", limit)
                assert admin.smembers(scripts.DELETED) == {project.project_id.encode()}
            for key in made:
                assert await verdict(one, key.api_key) is not None

    asyncio.run(run())


def test_pages_of_keys_lose_none_when_earlier_ones_are_revoked(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id = await new_project(one)
            made = [(await one.accounts.create_key(project_id, KeyType.WRITE)).api_key_id for _ in range(25)]
            seen: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                page, cursor = await one.accounts.list_keys(project_id, cursor, 10)
                seen += [key.api_key_id for key in page]
                for key in page:
                    await one.accounts.delete_key(project_id, api_key_id=key.api_key_id)
            assert seen == sorted(made)

    asyncio.run(run())


def test_a_project_needs_its_account(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            with pytest.raises(ApiError) as refused:
                await one.accounts.create_project("acc_nobody", "p")
            assert refused.value.row.error == "Invalid account_id"

    asyncio.run(run())
