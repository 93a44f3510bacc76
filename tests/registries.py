"""Registries as several edges would run them: each its own client of one real Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import redis

from app import redis_client
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.registry import Registry
from app.settings import Settings, load
from tests.waiting import async_until

FELT_SECONDS = 1.0  # the promise: a revoked key is dead everywhere within this
REFUSED = Kind.INVALID_WRITE_KEY


def settings_for(url: str, directory: Path, deploy: str = "") -> Settings:
    """Settings as `deploy` says, with this Redis."""
    path = directory / "deploy.toml"
    path.write_text(deploy)
    return load(path, environ={"REDIS_URL": url})


@contextlib.asynccontextmanager
async def registry(settings: Settings) -> AsyncIterator[Registry]:
    """A started registry with a client of its own, as in one process."""
    client = redis_client.connect(settings)
    opened = Registry(client, settings)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.close()
        await client.aclose()


@contextlib.asynccontextmanager
async def registries(settings: Settings) -> AsyncIterator[tuple[Registry, Registry]]:
    """Two, as on two edges."""
    async with registry(settings) as one, registry(settings) as other:
        yield one, other


async def new_project(one: Registry) -> str:
    """A project of a new account."""
    account = await one.accounts.create_account()
    return (await one.accounts.create_project(account.account_id, "p")).project_id


async def new_key(one: Registry, project_id: str = "", **more: object) -> tuple[str, str, str]:
    """Project id, key id and secret of a new WRITE key, in a new project unless one is named."""
    project_id = project_id or await new_project(one)
    made = await one.accounts.create_key(project_id, KeyType.WRITE, **more)  # type: ignore[arg-type]
    return project_id, made.api_key_id, made.api_key


async def remembered(one: Registry, secret: str, key_type: KeyType = KeyType.WRITE) -> Grant:
    """The grant, once memory alone answers for it."""

    async def in_memory() -> Grant | None:
        await one.authorise(secret, key_type)
        return one.cached(secret, key_type)

    return await async_until(in_memory, 5, "the key in memory")


async def following(one: Registry) -> None:
    """Until the registry follows the changes, so that what it learns is remembered."""
    project_id = await new_project(one)
    made = await one.accounts.create_key(project_id, KeyType.WRITE)
    await remembered(one, made.api_key)


async def verdict(one: Registry, secret: str, key_type: KeyType = KeyType.WRITE) -> Kind | None:
    """What a request with this key would meet, memory first as the handlers do; None for a 200."""
    if one.cached(secret, key_type) is not None:
        return None
    try:
        await one.authorise(secret, key_type)
    except ApiError as error:
        return error.kind
    return None


async def seconds_until(one: Registry, secret: str, wanted: Kind | None, deadline_seconds: float) -> float:
    """How long until the verdict is `wanted`."""
    began = time.monotonic()

    async def is_so() -> bool:
        return await verdict(one, secret) is wanted

    await async_until(is_so, deadline_seconds, f"{wanted}")
    return time.monotonic() - began


def calls(url: str, *commands: str) -> int:
    """How often Redis has run these commands (all but the follower's own, when none is named)."""
    with redis.Redis.from_url(url) as client:
        stats = client.info("commandstats")
    return sum(stats[f"cmdstat_{name}"]["calls"] for name in commands if f"cmdstat_{name}" in stats)
