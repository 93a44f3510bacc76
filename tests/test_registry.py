"""Keys of one edge: what each permits, and what an outage of Redis changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.settings import Settings
from tests.redis_fixture import RedisServer, start_redis
from tests.registries import (
    FELT_SECONDS,
    REFUSED,
    calls,
    new_key,
    registries,
    registry,
    remembered,
    seconds_until,
    settings_for,
    verdict,
)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(redis_url, tmp_path)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "r"
    directory.mkdir()
    server = start_redis(directory)
    yield server
    if server.process.poll() is None:
        server.kill()


def test_a_known_key_outlives_redis_for_the_grace_and_an_unknown_one_is_a_503(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_for(own_redis.url, tmp_path, "[limits]\ngrant_grace = 3\n")

    async def run() -> None:
        async with registry(settings) as one:
            _, _, secret = await new_key(one)
            _, _, never_seen = await new_key(one)
            await remembered(one, secret)
            own_redis.stop()
            began = time.monotonic()
            while time.monotonic() - began < 1.2:
                assert await verdict(one, secret) is None
                await asyncio.sleep(0.02)
            assert await verdict(one, never_seen) is Kind.UNAVAILABLE
            assert await verdict(one, "eb_w_no_such_key") is Kind.UNAVAILABLE
            await seconds_until(one, secret, Kind.UNAVAILABLE, 6)
            assert 2.0 < time.monotonic() - began < 6
            own_redis.start()
            await seconds_until(one, secret, None, 3)
            await remembered(one, secret)
            assert await verdict(one, never_seen) is None
            assert await verdict(one, "eb_w_no_such_key") is REFUSED

    asyncio.run(run())


def test_a_503_says_when_to_come_back(tmp_path: Path) -> None:
    settings = settings_for(f"unix://{tmp_path}/nobody.sock", tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            with pytest.raises(ApiError) as refused:
                await one.authorise("eb_w_whatever", KeyType.WRITE)
            assert refused.value.kind is Kind.UNAVAILABLE
            assert refused.value.retry_after_seconds == 2

    asyncio.run(run())


def test_a_registry_started_without_redis_recovers_by_itself(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = settings_for(own_redis.url, tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
        own_redis.stop()
        async with registry(settings) as one:
            assert await verdict(one, secret) is Kind.UNAVAILABLE
            own_redis.start()
            await seconds_until(one, secret, None, 3)
            await remembered(one, secret)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await seconds_until(one, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_an_expired_key_has_no_grace(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = settings_for(own_redis.url, tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            expiry = time.time_ns() // 1_000_000 + 700
            _, _, secret = await new_key(one, expires_at_ms=expiry)
            await remembered(one, secret)
            own_redis.stop()
            assert await verdict(one, secret) is None
            await seconds_until(one, secret, REFUSED, 2)
            assert time.time_ns() // 1_000_000 >= expiry

    asyncio.run(run())


@pytest.mark.parametrize("wanted", list(KeyType))
def test_a_key_of_another_type_is_told_so_from_redis_and_from_memory(
    settings: Settings, wanted: KeyType
) -> None:
    words = {
        KeyType.WRITE: "Please use a write key for write requests. Invalid x-eventbunker-write-key",
        KeyType.QUERY: "Please use a query key for query requests. Invalid x-eventbunker-query-key",
        KeyType.DELETE: "Please use a delete key for delete requests. Invalid x-eventbunker-delete-key",
        KeyType.PROJECT: "Please use a project master key for project requests. Invalid x-eventbunker-apikey",
        KeyType.ACCOUNT: "Please use an account master key for account requests. Invalid x-eventbunker-apikey",
    }

    async def run() -> None:
        async with registry(settings) as one:
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            secrets = {
                KeyType.ACCOUNT: account.account_master_key,
                KeyType.PROJECT: project.master_api_key,
                **{
                    kind: (await one.accounts.create_key(project.project_id, kind)).api_key
                    for kind in (KeyType.WRITE, KeyType.QUERY, KeyType.DELETE)
                },
            }
            for own_type, secret in secrets.items():
                if own_type is wanted:
                    assert (await one.authorise(secret, wanted)).key_type is wanted
                    continue
                for _ in range(2):  # asked, then remembered
                    assert one.cached(secret, wanted) is None
                    with pytest.raises(ApiError) as refused:
                        await one.authorise(secret, wanted)
                    assert (refused.value.row.status, refused.value.row.error) == (401, words[wanted])
                await remembered(one, secret, own_type)
                assert one.cached(secret, wanted) is None

    asyncio.run(run())


@pytest.mark.parametrize("secret", [None, "", "eb_w_unknown", "x" * 10_000, "é\x00\n"])
def test_missing_and_unknown_keys_are_a_401(settings: Settings, secret: str | None) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            with pytest.raises(ApiError) as refused:
                await one.authorise(secret, KeyType.QUERY)
            assert refused.value.row.status == 401
            assert refused.value.row.error == "Invalid x-eventbunker-query-key"

    asyncio.run(run())


def test_a_grant_says_all_that_the_key_was_made_with(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            expiry = time.time_ns() // 1_000_000 + 60_000
            project_id, key_id, secret = await new_key(
                one,
                project.project_id,
                customer_identifier="customer ü",
                expires_at_ms=expiry,
                rate_limit=7,
                allow_client_context=True,
            )
            expected = Grant(
                KeyType.WRITE, key_id, account.account_id, project_id, "customer ü", expiry, 7, True
            )
            assert await other.authorise(secret, KeyType.WRITE) == expected
            assert await remembered(other, secret) == expected

    asyncio.run(run())


def test_a_key_expires_in_memory_too(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            expiry = time.time_ns() // 1_000_000 + 500
            _, _, secret = await new_key(one, expires_at_ms=expiry)
            await remembered(one, secret)
            await seconds_until(one, secret, REFUSED, 2)
            assert time.time_ns() // 1_000_000 >= expiry

    asyncio.run(run())


def test_known_keys_cost_no_redis_call_and_unknown_ones_not_one_each(
    settings: Settings, redis_url: str
) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            _, _, secret = await new_key(one)
            await remembered(one, secret)
            before = calls(redis_url, "get")
            for _ in range(1000):
                assert one.cached(secret, KeyType.WRITE) is not None
            for _ in range(200):
                assert await verdict(one, "eb_w_unknown") is REFUSED
            assert calls(redis_url, "get") - before <= 2

    asyncio.run(run())
