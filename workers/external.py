"""Checks a Redis or ClickHouse that was given: reachable, new enough, and keeping the promise.

Messages name the variable and the host, never the url: it may carry a password. Next: `workers.dev`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app import redis_client
from app.settings import Settings
from workers.redis_server import MINIMUM

WANTED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
ASK_SECONDS = 5.0

log = structlog.get_logger()


class ExternalError(Exception):
    """What was given cannot be used; the message names the variable."""


async def check_redis(settings: Settings) -> None:
    """Errors: ExternalError when it cannot be reached or is too old. Warns where it weakens the promise."""
    where = _host(settings.redis_url)
    redis = redis_client.connect(settings)
    try:
        info = await redis.info("server")
        version = str(info["redis_version"])
        major, minor, *_ = (int(part) for part in version.split("."))
        if (major, minor) < MINIMUM:
            raise ExternalError(f"REDIS_URL: the server at {where} is {version}; 6.2 or newer is needed")
        for name, wanted in WANTED.items():
            await _compare(redis, name, wanted)
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise ExternalError(
            f"REDIS_URL: no answer from {where} ({type(error).__name__}): "
            "check that it runs, and REDIS_PASSWORD"
        ) from error
    finally:
        await redis.aclose()
    log.info("using the given Redis", host=where, version=version)


async def _compare(redis: Redis, name: str, wanted: str) -> None:
    try:
        answer = await redis.config_get(name)
    except ResponseError:
        log.warning(
            "REDIS_URL: the server hides its configuration; make sure of this", setting=name, wanted=wanted
        )
        return
    value = str(answer.get(name, ""))
    if value != wanted:
        log.warning(
            "REDIS_URL: with this setting an accepted event can be lost",
            setting=name,
            value=value,
            wanted=wanted,
        )


async def check_store(settings: Settings) -> None:
    """Errors: ExternalError when the server cannot be reached or refuses us."""
    from app.store import Store, StoreError  # noqa: PLC0415 - httpx costs a start that does not need it

    where = _host(settings.clickhouse_url)
    store = Store(
        settings.clickhouse_url,
        database="default",
        username=settings.store.username,
        password=settings.secret("CLICKHOUSE_PASSWORD"),
    )
    try:
        result = await store.ask("SELECT version()", timeout_seconds=ASK_SECONDS)
    except StoreError as error:
        raise ExternalError(
            f"CLICKHOUSE_URL: no good answer from {where} ({str(error)[:200]}): "
            "check that it runs, [[stores]] username and CLICKHOUSE_PASSWORD"
        ) from error
    finally:
        await store.close()
    log.info("using the given ClickHouse", host=where, version=str(result.rows[0][0]))


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.hostname and parts.port else parts.hostname or parts.path
