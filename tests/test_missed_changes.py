"""What an edge has missed, it does not trust: hung, late and lost news, and answers that cross a change."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from app import registry_scripts as scripts
from app.grant import KeyType
from app.settings import Settings
from tests.registries import (
    FELT_SECONDS,
    REFUSED,
    new_key,
    registries,
    registry,
    remembered,
    seconds_until,
    settings_for,
    verdict,
)
from tests.waiting import async_until


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(redis_url, tmp_path)


def test_a_hung_follower_is_not_trusted_for_longer_than_stale_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)

            async def hang(*_: object, **__: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(Redis, "xread", hang)
            began = time.monotonic()
            await one.accounts.delete_key(project_id, api_key_id=key_id)

            async def is_untrusted() -> bool:
                return other.cached(secret, KeyType.WRITE) is None

            await async_until(is_untrusted, FELT_SECONDS, "memory distrusted")
            assert time.monotonic() - began < FELT_SECONDS
            assert await verdict(other, secret) is REFUSED
            # A living key goes on working, by asking Redis.
            _, _, living = await new_key(one, project_id)
            assert await verdict(other, living) is None

    asyncio.run(run())


def test_an_answer_that_was_long_on_its_way_is_no_fresh_news(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process finds old answers in its socket: they say nothing of what happened since."""

    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)
            honest: Any = Redis.xread

            async def late(self: Redis, *arguments: object, **more: object) -> object:
                answer = await honest(self, *arguments, **more)
                await asyncio.sleep(0.45)  # on the way
                return answer

            monkeypatch.setattr(Redis, "xread", late)
            for _ in range(3):
                _, key_id, secret = await new_key(one, project_id)
                await other.authorise(secret, KeyType.WRITE)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                assert await seconds_until(other, secret, REFUSED, 2) < FELT_SECONDS

    asyncio.run(run())


@pytest.mark.parametrize("loss", ["trimmed", "deleted", "deleted and begun anew", "begun anew in the past"])
def test_changes_that_were_lost_while_disconnected_are_noticed(
    settings: Settings, redis_url: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            _, _, living = await new_key(one, project_id)
            await remembered(other, secret)
            honest = Redis.xread

            async def cut(*_: object, **__: object) -> None:
                raise redis.exceptions.ConnectionError

            monkeypatch.setattr(Redis, "xread", cut)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            with redis.Redis.from_url(redis_url) as admin:
                if loss == "trimmed":
                    admin.xtrim(scripts.CHANGES, 0, approximate=False)
                else:
                    admin.delete(scripts.CHANGES)
                if loss == "deleted and begun anew":
                    await new_key(one, project_id)
                elif loss == "begun anew in the past":  # a server whose clock was set back, or a backup
                    admin.xadd(scripts.CHANGES, {"what": "grant", "id": "x", "n": "1"}, id="1-1")
            monkeypatch.setattr(Redis, "xread", honest)
            await seconds_until(other, secret, REFUSED, FELT_SECONDS)
            await remembered(other, living)  # memory is trusted again, so it is not just that all is asked
            assert other.cached(secret, KeyType.WRITE) is None
            # ... and the next change is heard.
            _, key_id, secret = await new_key(one, project_id)
            await remembered(other, secret)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await seconds_until(other, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_a_stream_deleted_while_connected_is_noticed(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, _, _ = await new_key(one)
            for _ in range(5):
                _, key_id, secret = await new_key(one, project_id)
                await remembered(other, secret)
                with redis.Redis.from_url(redis_url) as admin:
                    admin.delete(scripts.CHANGES)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                await seconds_until(other, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_an_answer_from_before_the_revocation_is_not_remembered_after_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GET is answered, the key is revoked, the change is applied, and only then the answer is looked at."""

    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)  # the follower runs
            _, key_id, secret = await new_key(one, project_id)
            honest = Redis.get
            answered, go_on = asyncio.Event(), asyncio.Event()

            async def slow(self: Redis, name: str) -> object:
                answer = await honest(self, name)
                answered.set()
                await go_on.wait()
                return answer

            monkeypatch.setattr(Redis, "get", slow)
            request = asyncio.create_task(other.authorise(secret, KeyType.WRITE))
            await answered.wait()
            monkeypatch.setattr(Redis, "get", honest)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            _, _, later = await new_key(one, project_id)
            await remembered(other, later)  # so the follower has read beyond the revocation
            await asyncio.sleep(0.25)
            go_on.set()
            await request  # it was valid when it was asked
            assert other.cached(secret, KeyType.WRITE) is None
            assert await verdict(other, secret) is REFUSED

    asyncio.run(run())


def test_a_key_made_while_it_was_looked_up_is_not_taken_for_unknown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, _, secret = await new_key(one)
            await remembered(other, secret)
            monkeypatch.setattr("app.grant.secrets.token_urlsafe", lambda _: "foreseen" * 4)
            foreseen = "eb_w_" + "foreseen" * 4
            honest = Redis.get
            answered, go_on = asyncio.Event(), asyncio.Event()

            async def slow(self: Redis, name: str) -> object:
                answer = await honest(self, name)
                answered.set()
                await go_on.wait()
                return answer

            monkeypatch.setattr(Redis, "get", slow)
            request = asyncio.create_task(verdict(other, foreseen))
            await answered.wait()
            monkeypatch.setattr(Redis, "get", honest)
            generation = other._generation
            await new_key(one, project_id)

            async def is_heard() -> bool:
                return other._generation > generation

            await async_until(is_heard, 2, "the change heard")
            go_on.set()
            assert await request is REFUSED
            assert await verdict(other, foreseen) is None

    asyncio.run(run())


def test_a_key_remembered_before_the_follower_began_is_revocable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        honest = Redis.xrevrange

        async def cut(*_: object, **__: object) -> None:
            raise redis.exceptions.ConnectionError

        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            monkeypatch.setattr(Redis, "xrevrange", cut)
            monkeypatch.setattr(Redis, "xinfo_stream", cut)
            async with registry(settings) as other:
                await other.authorise(secret, KeyType.WRITE)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                monkeypatch.undo()
                assert Redis.xrevrange is honest
                assert await seconds_until(other, secret, REFUSED, FELT_SECONDS) < FELT_SECONDS

    asyncio.run(run())
