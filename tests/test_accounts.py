"""Accounts, projects and keys from several edges at once; and that no secret is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from app import registry_scripts as scripts
from app.accounts import MAX_PROJECTS
from app.errors import ApiError, Kind
from app.grant import KeyType, digest
from app.settings import Settings
from tests.registries import (
    FELT_SECONDS,
    REFUSED,
    new_key,
    registries,
    registry,
    seconds_until,
    settings_for,
    verdict,
)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(redis_url, tmp_path)


def test_exactly_a_hundred_projects_whoever_asks_at_the_same_time(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            made = [
                await one.accounts.create_project(account.account_id, f"p{number}") for number in range(90)
            ]
            results = await asyncio.gather(
                *(
                    edge.accounts.create_project(account.account_id, "more")
                    for _ in range(15)
                    for edge in (one, other)
                ),
                return_exceptions=True,
            )
            refused = [result for result in results if isinstance(result, ApiError)]
            assert len(results) - len(refused) == MAX_PROJECTS - 90
            assert {error.row.error for error in refused} == {"Maximum number of projects reached"}
            assert len(await other.accounts.list_projects(account.account_id)) == MAX_PROJECTS
            await other.accounts.delete_project(account.account_id, made[0].project_id)
            await one.accounts.create_project(account.account_id, "in the freed place")
            with pytest.raises(ApiError):
                await one.accounts.create_project(account.account_id, "one more")

    asyncio.run(run())


def test_a_key_is_deleted_once_whoever_asks_at_the_same_time(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            _, _, bystander = await new_key(one, project_id)
            results = await asyncio.gather(
                *(edge.accounts.delete_key(project_id, api_key_id=key_id) for edge in (one, other) * 5),
                *(edge.accounts.delete_key(project_id, api_key=secret) for edge in (one, other) * 5),
                return_exceptions=True,
            )
            assert [result for result in results if not isinstance(result, ApiError)] == [key_id]
            assert await verdict(one, bystander) is None

    asyncio.run(run())


def test_no_key_outlives_a_project_deleted_while_keys_are_made(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            making = [
                asyncio.create_task(edge.accounts.create_key(project.project_id, KeyType.WRITE))
                for _ in range(50)
                for edge in (one, other)
            ]
            await making[10]
            await one.accounts.delete_project(account.account_id, project.project_id)
            made = await asyncio.gather(*making, return_exceptions=True)
            secrets = [key.api_key for key in made if not isinstance(key, BaseException)]
            assert secrets
            assert {error.kind for error in made if isinstance(error, ApiError)} <= {Kind.INVALID_PROJECT}
            for secret in secrets:
                await seconds_until(other, secret, REFUSED, FELT_SECONDS)
            assert await one.accounts.list_keys(project.project_id, "", 1000) == ([], None)

    asyncio.run(run())


def test_redis_holds_no_secret_and_neither_does_a_repr(settings: Settings, redis_url: str) -> None:
    async def run() -> list[tuple[str, object]]:
        async with registry(settings) as one:
            account = await one.accounts.create_account("acme")
            project = await one.accounts.create_project(account.account_id, "p")
            key = await one.accounts.create_key(project.project_id, KeyType.WRITE, name="n")
            new = await one.accounts.reset_master_key(account.account_id, project.project_id)
            grants = [
                await one.authorise(account.account_master_key, KeyType.ACCOUNT),
                await one.authorise(new, KeyType.PROJECT),
                await one.authorise(key.api_key, KeyType.WRITE),
            ]
            await one._write_uses()
            return [
                (account.account_master_key, account),
                (project.master_api_key, project),
                (key.api_key, key),
                (new, [*grants, one._remembered]),
            ]

    shown = asyncio.run(run())
    secrets = [secret for secret, _ in shown]
    for secret in secrets:
        assert secret not in repr([thing for _, thing in shown])
    dump = _everything(redis_url)
    assert digest(secrets[2]).encode() in dump  # so the dump does hold what there is
    for secret in secrets:
        assert secret.encode() not in dump
        assert secret.split("_", 2)[2].encode() not in dump


def _everything(url: str) -> bytes:
    """Every key and value, as one text."""
    pieces: list[bytes] = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            read: dict[bytes, Callable[[], object]] = {
                b"string": lambda key=key: client.get(key),  # type: ignore[misc]
                b"hash": lambda key=key: client.hgetall(key),  # type: ignore[misc]
                b"set": lambda key=key: client.smembers(key),  # type: ignore[misc]
                b"zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),  # type: ignore[misc]
                b"stream": lambda key=key: client.xrange(key),  # type: ignore[misc]
            }
            pieces += [key, repr(read[kind]()).encode()]
    return b"\n".join(pieces)


def test_last_uses_are_written_at_the_latest_when_it_closes(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            _, unused_id, _ = await new_key(one, project_id)
            before = time.time_ns() // 1_000_000
            async with registry(settings) as other:
                await other.authorise(secret, KeyType.WRITE)
            with redis.Redis.from_url(settings.redis_url) as client:
                used = client.hgetall(scripts.USED)
            assert before <= int(used[key_id.encode()]) <= time.time_ns() // 1_000_000
            assert unused_id.encode() not in used

    asyncio.run(run())


def test_a_last_use_does_not_bring_a_revoked_key_back(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            await one.authorise(secret, KeyType.WRITE)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await one._write_uses()
            with redis.Redis.from_url(settings.redis_url) as client:
                assert client.hgetall(scripts.USED) == {}

    asyncio.run(run())
