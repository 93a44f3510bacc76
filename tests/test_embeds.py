"""Tokens of embedded charts in a real Redis: what a copy of it is worth, bounds, outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis

from app import embeds as module
from app import redis_client
from app import registry_scripts as scripts
from app.accounts import Accounts
from app.embed_token import new_token, read_token
from app.embeds import Embed, Embeds
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from tests.registries import settings_for

GRANT = Grant(KeyType.QUERY, "key_1", "acc_1", "prj_1", "c1")


def hour() -> int:
    return (time.time_ns() // 1_000_000) + 3_600_000


async def create(embeds: Embeds, grant: Grant = GRANT, **more: Any) -> tuple[str, Embed]:
    wishes: dict[str, Any] = {"title": "t", "kind": "line", "expires_at_ms": hour(), "allowed_origins": ()}
    return await embeds.create(grant, '{"time_period": "today"}', **wishes | more)


def with_redis(url: str, path: Path, work: Callable[[Redis, Embeds], Awaitable[None]]) -> None:
    async def run() -> None:
        redis = redis_client.connect(settings_for(url, path))
        try:
            await redis.hset(scripts.project("prj_1"), "status", "ACTIVE")
            for key in ("key_1", "key_2"):
                await redis.hset(scripts.key(key), "digest", "d")
            await work(redis, Embeds(redis))
        finally:
            await redis.aclose()

    asyncio.run(run())


def test_a_token_is_found_by_every_process_until_it_is_revoked(redis_url: str, tmp_path: Path) -> None:
    async def work(redis: Redis, one: Embeds) -> None:
        text, embed = await create(one, allowed_origins=("https://a.example",))
        other = Embeds(redis)  # which knows no signing key yet
        assert await other.find(text) == embed
        assert embed.grant == GRANT
        assert text not in repr(embed) + str(await redis.get(scripts.embed(embed.token_id)))
        assert await redis.pexpiretime(scripts.embed(embed.token_id)) == embed.expires_at_ms
        assert await one.revoke(GRANT, token=text) == 1
        with pytest.raises(ApiError) as refused:
            await other.find(text)
        assert refused.value.kind is Kind.CHART_TOKEN_REVOKED

    with_redis(redis_url, tmp_path, work)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_of_any_size_have_each_live_token_once(redis_url: str, tmp_path: Path, size: int) -> None:
    """Those that expire first first, some in the same millisecond; what has expired is not among them."""

    async def work(redis: Redis, one: Embeds) -> None:
        at = hour()
        for later in (0, 1, 1, 1, 2, 2, 5):
            await create(one, expires_at_ms=at + later)
        await redis.zadd(scripts.embeds(scripts.key("key_1")), {"cht_0": time.time() * 1000 - 1})
        await create(one, msgspec.structs.replace(GRANT, api_key_id="key_2"))
        seen: list[tuple[int, str]] = []
        cursor: str | None = ""
        while cursor is not None:
            assert len(seen) < 7, "an empty page follows the last one"
            page, cursor = await one.list(GRANT, cursor, size)
            assert len(page) <= size
            seen += [(embed.expires_at_ms - at, embed.token_id) for embed in page]
        assert seen == sorted(set(seen))
        assert [later for later, _ in seen] == [0, 1, 1, 1, 2, 2, 5]
        # A page behind a token that has expired meanwhile begins with the first that has not.
        page, _ = await one.list(GRANT, "5-cht_0", 1)
        assert page[0].token_id == seen[0][1]

    with_redis(redis_url, tmp_path, work)


def test_a_copy_of_redis_gives_nobody_a_token(redis_url: str, tmp_path: Path) -> None:
    """Who has the signing keys, the ids and the digests still lacks what was digested."""

    async def work(redis: Redis, one: Embeds) -> None:
        text, embed = await create(one)
        [key] = cast("list[bytes]", await redis.lrange(scripts.SIGNING, 0, -1))
        made_up, described = new_token(embed.expires_at_ms, key)
        assert read_token(made_up, [key]) == described
        with pytest.raises(ApiError) as refused:
            await one.find(made_up)
        assert refused.value.kind is Kind.CHART_TOKEN_REVOKED
        # The same, under the id of a token that there is.
        await redis.copy(scripts.embed(embed.token_id), scripts.embed(described.token_id))
        with pytest.raises(ApiError) as refused:
            await one.find(made_up)
        assert refused.value.kind is Kind.CHART_TOKEN_REVOKED
        assert await one.find(text) == embed

    with_redis(redis_url, tmp_path, work)


def test_made_up_tokens_cost_redis_nothing(redis_url: str, tmp_path: Path) -> None:
    async def work(redis: Redis, one: Embeds) -> None:
        await create(one)
        made_up, _ = new_token(hour(), b"x" * 32)
        before = (await redis.info("stats"))["total_commands_processed"]
        for _ in range(50):
            with pytest.raises(ApiError) as refused:
                await one.find(made_up)
            assert refused.value.kind is Kind.INVALID_CHART_TOKEN
        assert (await redis.info("stats"))["total_commands_processed"] - before <= 3

    with_redis(redis_url, tmp_path, work)


def test_tokens_are_bounded_by_key_and_by_project(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OF_KEY", 2)
    monkeypatch.setattr(module, "MAX_OF_PROJECT", 3)

    async def refusal(embeds: Embeds, grant: Grant) -> str:
        with pytest.raises(ApiError) as refused:
            await create(embeds, grant)
        assert refused.value.kind is Kind.RATE_LIMITED
        return refused.value.detail

    async def work(_redis: Redis, one: Embeds) -> None:
        second = Grant(KeyType.QUERY, "key_2", "acc_1", "prj_1")
        soon = (time.time_ns() // 1_000_000) + 1500
        await create(one, expires_at_ms=soon)
        await create(one)
        assert "A key has at most 2" in await refusal(one, GRANT)
        await create(one, second)
        assert "A project has at most 3" in await refusal(one, second)
        await asyncio.sleep(max(0.0, soon / 1000 - time.time()) + 0.1)  # until it has expired
        await create(one, second)
        assert await one.revoke(second) == 2
        await create(one)

    with_redis(redis_url, tmp_path, work)


def test_a_key_that_is_gone_makes_no_token(redis_url: str, tmp_path: Path) -> None:
    async def work(redis: Redis, one: Embeds) -> None:
        for gone in (scripts.key("key_1"), scripts.project("prj_1")):
            await redis.delete(gone)
            with pytest.raises(ApiError) as refused:
                await create(one)
            assert refused.value.kind is Kind.INVALID_QUERY_KEY

    with_redis(redis_url, tmp_path, work)


def test_deleting_a_key_or_a_project_leaves_nothing_of_its_tokens(redis_url: str, tmp_path: Path) -> None:
    async def work(redis: Redis, one: Embeds) -> None:
        accounts = Accounts(redis)
        account = (await accounts.create_account()).account_id
        project = (await accounts.create_project(account, "p")).project_id
        keys = [await accounts.create_key(project, KeyType.QUERY) for _ in range(2)]
        grants = [Grant(KeyType.QUERY, key.api_key_id, account, project) for key in keys]
        texts = [(await create(one, grant))[0] for grant in grants for _ in range(2)]

        async def left() -> int:
            return len(await redis.keys("*:embed:*")) + await redis.zcard(
                scripts.embeds(scripts.project(project))
            )

        assert await left() == 8
        await accounts.delete_key(project, api_key_id=keys[0].api_key_id)
        assert await left() == 4
        assert (await one.find(texts[3])).grant == grants[1]
        await accounts.delete_project(account, project)
        assert await redis.keys("*embed*") == []

    with_redis(redis_url, tmp_path, work)


def test_while_redis_is_away_tokens_are_a_503(tmp_path: Path) -> None:
    with pytest.raises(ApiError) as refused:
        with_redis_away(tmp_path)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert refused.value.retry_after_seconds


def with_redis_away(tmp_path: Path) -> None:
    async def run() -> None:
        redis = redis_client.connect(settings_for(f"unix://{tmp_path}/none.sock", tmp_path))
        try:
            await Embeds(redis).find(new_token(hour(), b"x" * 32)[0])
        finally:
            await redis.aclose()

    asyncio.run(run())
