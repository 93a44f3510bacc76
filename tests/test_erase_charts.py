"""Tokens of charts that name an erased customer die with the erasure, and Redis holds the name nowhere."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import registry_scripts
from app.embeds import Embed, Embeds
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from tests.eraser_kit import PROJECT, Killed, event, nobody_waits, scene
from tests.pipeline_steps import Open, opened
from tests.waiting import async_until
from workers.erase_charts import Charts

__all__ = ["nobody_waits", "opened"]

ANNA = "anna-of-nobody-else's"


class Made:
    """Tokens of one project."""

    def __init__(self, redis: Redis) -> None:
        self.embeds = Embeds(redis)
        self._redis = redis

    async def open(self) -> None:
        for project_id in (PROJECT, "prj_other"):
            await self._redis.hset(registry_scripts.project(project_id), "status", "ACTIVE")
        for key in ("key_1", "key_2"):
            await self._redis.hset(registry_scripts.key(key), "digest", "d")

    async def token(
        self, *filters: object, key: str = "key_1", of: str | None = None, project_id: str = PROJECT
    ) -> tuple[str, Embed]:
        grant = Grant(KeyType.QUERY, key, "acc", project_id, of)
        body = json.dumps({"time_period": "today", "filters": list(filters)})
        end = time.time_ns() // 1_000_000 + 3_600_000
        return await self.embeds.create(
            grant, body, title="t", kind="line", expires_at_ms=end, allowed_origins=()
        )

    async def is_live(self, text: str) -> bool:
        try:
            await self.embeds.find(text)
        except ApiError as error:
            if error.kind is not Kind.CHART_TOKEN_REVOKED:
                raise
            return False
        return True


def condition(op: str, value: Any, name: str = "customer_identifier") -> dict[str, Any]:
    return {"field_name": name, "op": op, "value": value}


async def values_with(redis: Redis, text: bytes) -> list[bytes]:
    """Keys of which Redis's own dump of the value holds the bytes."""
    return [key async for key in redis.scan_iter() if text in (await redis.dump(key) or b"")]


def test_the_tokens_of_an_erased_customer_are_revoked_and_counted(opened: Open) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            redis, made = here.made.redis, Made(here.made.redis)
            await made.open()
            await here.made.put([event(ANNA), event("bert")])
            await async_until(here.made.is_empty, 15)
            named = [
                (await made.token(condition("equals", ANNA)))[0],
                (await made.token(condition("in", ["bert", ANNA]), key="key_2"))[0],
                (await made.token({"or": [condition("equals", 1, "n"), condition("not_equals", ANNA)]}))[0],
                (await made.token(condition("equals", ANNA, "the_same_person")))[0],
                (await made.token(of=ANNA))[0],
            ]
            others = [
                (await made.token(condition("equals", "bert")))[0],
                (await made.token(of="bert"))[0],
                (await made.token())[0],
            ]
            elsewhere = (await made.token(condition("equals", "carl"), project_id="prj_other"))[0]
            period = {"start": "2020-01-01", "end": "2020-01-02"}
            of_one_day = await here.ask(ANNA, time_period=period)
            assert (await here.done(of_one_day.erasure_id)).charts == 0, "they are not forgotten as a whole"
            assert all([await made.is_live(text) for text in (*named, *others)])
            carl = await here.ask("carl")
            report = await here.ask(ANNA)
            assert (await here.done(report.erasure_id)).charts == 5
            assert (await here.done(carl.erasure_id)).charts == 0
            assert [await made.is_live(text) for text in named] == [False] * 5
            assert all([await made.is_live(text) for text in (*others, elsewhere)])
            assert await values_with(redis, ANNA.encode()) == []
            left = await redis.zcard(registry_scripts.embeds(registry_scripts.project(PROJECT)))
            assert left == len(others)
            assert await redis.exists(scripts.CHARTS) == 0

    asyncio.run(run())


def test_a_token_that_is_made_after_the_erasure_is_about_somebody_who_came_back(opened: Open) -> None:
    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = Made(here.made.redis)
            await made.open()
            before = (await made.token(condition("equals", ANNA)))[0]
            report = await here.ask(ANNA)
            after = (await made.token(condition("equals", ANNA)))[0]
            assert (await here.done(report.erasure_id)).charts == 1
            assert [await made.is_live(text) for text in (before, after)] == [False, True]

    asyncio.run(run())


def test_a_crash_loses_no_count(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tokens, and before what was revoked is told."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = Made(here.made.redis)
            await made.open()
            for _ in range(3):
                await made.token(condition("equals", ANNA))
            report = await here.ask(ANNA)
            revoke, left = Charts._revoke_one, 2

            async def revoke_and_die(self: Charts, *arguments: Any) -> None:
                nonlocal left
                await revoke(self, *arguments)
                left -= 1
                if not left:
                    raise Killed

            monkeypatch.setattr(Charts, "_revoke_one", revoke_and_die)
            with pytest.raises(Killed):
                await here.done(report.erasure_id)
            await here.made.redis.delete(scripts.ERASER)
            here.eraser = here.make()
            assert (await here.done(report.erasure_id)).charts == 3

    asyncio.run(run())
