"""`eventbunker account create`: the operator makes accounts; there is no public sign-up."""

from __future__ import annotations

import asyncio

import msgspec

from app import redis_client
from app.account_types import CreatedAccount
from app.accounts import Accounts
from app.redis_client import UNREACHABLE
from app.settings import Settings
from workers import output


def create(settings: Settings, *, name: str, as_json: bool) -> int:
    """Create an account and print its master key, once. Returns the exit code. Errors: output.Unwritten."""
    if not settings.redis_url:
        output.say("no Redis: set REDIS_URL, or queues.producers[0].url in deploy.toml")
        return 1
    output.look()
    try:
        made = asyncio.run(_create(settings, name))
    except UNREACHABLE as error:
        output.say(f"Redis does not answer ({type(error).__name__}); check REDIS_URL")
        return 1
    if as_json:
        output.once(msgspec.json.encode(made).decode())
    else:
        output.once(
            f"account_id         {made.account_id}\naccount_master_key {made.account_master_key}\n"
            "The key is shown this once; only its digest is kept."
        )
    return 0


async def _create(settings: Settings, name: str) -> CreatedAccount:
    redis = redis_client.connect(settings)
    try:
        return await Accounts(redis).create_account(name)
    finally:
        await redis.aclose()
