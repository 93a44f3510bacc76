"""How this project connects to Redis: bounded waits, and no retries behind our back.

redis-py repeats a command by itself after a lost connection (ten times by default). For a command that
is not idempotent that stores twice, so it is off; whoever needs a retry knows why and does it itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from app.settings import Settings

# What it looks like when Redis does not answer; nothing else of redis-py need be known to callers.
UNREACHABLE = (RedisError, OSError, TimeoutError)

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 0.1
STOP_ATTEMPTS = 50
STOP_ATTEMPT_SECONDS = 0.1

log = structlog.get_logger()


def connect(
    settings: Settings, *, timeout_seconds: float = ANSWER_SECONDS, max_connections: int = 100
) -> Redis:
    """A client for `settings.redis_url`; answers are bytes. It connects at the first command.

    `timeout_seconds` bounds one answer: more than the longest blocking read of the caller. Beyond
    `max_connections` at the same time a command fails at once.
    """
    redis: Redis = Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        max_connections=max_connections,
        **_password(settings),
    )
    pool = redis.connection_pool
    pool.connection_class = type("Connection", (_Mended, pool.connection_class), {})
    return redis


class _Mended:
    """A connection that hides from its callers what Python, uvloop and redis-py do to each other.

    A write on a connection that the other end has reset is a RuntimeError of uvloop's: not one of
    UNREACHABLE, so it would be taken for a bug, and end whoever meets it.

    Before Python 3.12 asyncio.wait_for, through which redis-py sends, loses a cancellation that arrives as
    the sending ends; with it a deadline, and the answer would be waited for until `socket_timeout`.
    """

    async def send_packed_command(self, *arguments: Any, **named: Any) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            await super().send_packed_command(*arguments, **named)  # type: ignore[misc]
        except RuntimeError as error:
            raise ConnectionError(f"the connection was reset: {error}") from error
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise asyncio.CancelledError


def _password(settings: Settings) -> Any:
    """Only where one is set: an explicit None would override what the URL holds."""
    password = settings.secret("REDIS_PASSWORD")
    return {"password": password} if password else {}


async def stop_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks that talk to Redis, and wait for their end.

    redis-py swallows a cancellation that arrives while it connects, so one `cancel()` may be lost, and
    whoever waits for the task would wait for ever.
    """
    for _ in range(STOP_ATTEMPTS):
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=STOP_ATTEMPT_SECONDS)
        if not pending:
            return
    log.error("a task does not end", tasks=len(pending))


async def wait_for_version(redis: Redis, stop: asyncio.Event) -> tuple[int, int]:
    """The server's version as (7, 0), waited for until Redis answers or `stop` is set."""
    failures = 0
    while not stop.is_set():
        try:
            info = await redis.info("server")
            major, minor, *_ = str(info["redis_version"]).split(".")
            return int(major), int(minor)
        except UNREACHABLE as error:
            if failures % 50 == 0:
                log.warning("waiting for redis", error=type(error).__name__)
            failures += 1
            await asyncio.sleep(RETRY_SECONDS)
    return 0, 0
