"""`eventbunker charts rotate-key`: the operator replaces the key that signs tokens of embedded charts."""

from __future__ import annotations

import asyncio

from app import redis_client
from app.embeds import Embeds
from app.errors import ApiError
from app.settings import Settings
from workers import output
from workers.running import NotRunning, find_running


def rotate_key(settings: Settings) -> int:
    """Sign with a new key from now on. Returns the exit code. Errors: output.Unwritten."""
    # Whoever is not told that it was done does it again: tokens that were made before are worth nothing then.
    output.look()
    try:
        asyncio.run(_rotate(find_running(settings, needs_store=False)))
    except NotRunning as error:
        output.say(str(error))
        return 1
    except ApiError:
        output.say("Redis does not answer; check REDIS_URL")
        return 1
    output.done("New tokens are signed with a new key. Those of the key before work until the next rotation.")
    return 0


async def _rotate(settings: Settings) -> None:
    redis = redis_client.connect(settings)
    try:
        await Embeds(redis).rotate()
    finally:
        await redis.aclose()
