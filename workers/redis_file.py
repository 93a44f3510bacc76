"""Redis's append-only file, written anew: what was deleted from Redis is then no longer in it.

Until then it holds every command since the last rewriting, and with it each event's bytes.
"""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ResponseError

LOOK_SECONDS = 0.1
SECONDS = 600.0  # for one rewriting, and one that was under way before it

How: TypeAlias = Literal["rewritten", "not allowed", "not used"]


async def rewrite(redis: Redis) -> How:
    """Return when the file is new. "not allowed": this Redis does not let us, so nobody knows of its files.

    Errors: redis_client.UNREACHABLE, TimeoutError among them.
    """
    try:
        async with asyncio.timeout(SECONDS):
            if not int((await redis.info("persistence")).get("aof_enabled", 0)):
                return "not used"
            while True:
                await _wait(redis)
                try:
                    await redis.bgrewriteaof()
                except ResponseError as error:
                    if "in progress" not in str(error):
                        return "not allowed"
                else:
                    if await _wait(redis) == "ok":
                        return "rewritten"
                await asyncio.sleep(LOOK_SECONDS)
    except ResponseError:  # a managed Redis may refuse INFO too
        return "not allowed"


async def _wait(redis: Redis) -> str:
    """Until no rewriting is under way; how the last one ended."""
    while True:
        info = await redis.info("persistence")
        if not int(info["aof_rewrite_in_progress"]) and not int(info["aof_rewrite_scheduled"]):
            return str(info["aof_last_bgrewrite_status"])
        await asyncio.sleep(LOOK_SECONDS)
