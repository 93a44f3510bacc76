"""The developer's account, project and keys: made at the first start, kept in STATE/dev.json (mode 0600).

Secrets are shown once when they are made and nobody can read them back from Redis; a developer's machine
is the one place where keeping them is a service. Next: `app.accounts`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

import structlog
from redis.asyncio import Redis

from app import redis_client, registry_scripts
from app.accounts import Accounts
from app.errors import ApiError
from app.grant import KeyType
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.settings import Settings
from workers.state import State, StateError

MEMBERS = (
    "url", "account_id", "account_master_key", "project_id", "project_master_key",
    "write_key", "query_key", "delete_key",
)  # fmt: skip
KEY_TYPES = (KeyType.WRITE, KeyType.QUERY, KeyType.DELETE)

log = structlog.get_logger()


@dataclass(frozen=True)
class DevKeys:
    """What dev.json holds, and whether it was made just now."""

    members: dict[str, str] = field(repr=False)
    is_new: bool


async def ensure(settings: Settings, state: State, url: str) -> DevKeys:
    """The keys of dev.json if this Redis knows them, else new ones; `url` is written in either case.

    Errors: StateError when Redis fails meanwhile.
    """
    redis = redis_client.connect(settings)
    try:
        kept = state.read_json(state.dev_json)
        is_new = not await _is_known(kept, redis, settings)
        if is_new:
            await _warn_of_loss(redis, state)
            kept = await _create(redis)
        members = {name: kept[name] for name in MEMBERS if name != "url"} | {"url": url}
        state.write_json(state.dev_json, {name: members[name] for name in MEMBERS})
        return DevKeys(members, is_new)
    except UNREACHABLE as error:
        raise StateError(f"Redis failed while the keys were looked up ({type(error).__name__})") from error
    finally:
        await redis.aclose()


async def _warn_of_loss(redis: Redis, state: State) -> None:
    """New keys are about to be made: keep what dev.json held, and say so when a project is left behind."""
    if state.dev_json.exists():
        backup = state.dev_json.with_suffix(".json.old")
        os.replace(state.dev_json, backup)
        log.warning("dev.json is damaged, or of another Redis: making new keys", old=str(backup))
    if await redis.exists(registry_scripts.CHANGES):
        log.warning(
            "this Redis holds projects of an earlier start; their events stay, but only their keys reach them"
        )


def announce(keys: DevKeys, state: State) -> None:
    """Tell the developer, on stdout: the keys once, afterwards where they are."""
    url = keys.members["url"]
    lines = [f"eventbunker runs at {url}   (keys: {state.dev_json}; Ctrl-C stops it)"]
    if keys.is_new:
        lines = [*_first_words(keys.members), *lines]
    print("\n".join(lines), file=sys.stdout, flush=True)


def _first_words(members: dict[str, str]) -> list[str]:
    width = max(map(len, MEMBERS))
    return [
        "",
        "Made for you, and shown this once:",
        *(f"  {name:<{width}}  {members[name]}" for name in MEMBERS if name != "url"),
        "",
        "Track an event:",
        f"  curl -sS {members['url']}/post -H 'x-eventbunker-write-key: {members['write_key']}'"
        " -H 'content-type: application/json'"
        """ -d '{"event_name":"my_first_event","plan":"pro","amount":12.5}'""",
        "",
        "Count the events of the last five minutes:",
        f"  curl -sS {members['url']}/v1/query/json -H 'x-eventbunker-query-key: {members['query_key']}'"
        " -H 'content-type: application/json'"
        """ -d '{"time_period":"minus_5_minutes","group_by":["event_name"],"""
        """"computations":[{"function":"count"}]}'""",
        "",
    ]


async def _is_known(kept: dict[str, str], redis: Redis, settings: Settings) -> bool:
    if not all(kept.get(name) for name in MEMBERS):
        return False
    registry = Registry(redis, settings)
    wanted = {
        "account_master_key": KeyType.ACCOUNT,
        "project_master_key": KeyType.PROJECT,
        **{f"{key_type.value.lower()}_key": key_type for key_type in KEY_TYPES},
    }
    try:
        for name, key_type in wanted.items():
            await registry.authorise(kept[name], key_type)
    except ApiError as error:
        if error.kind.value.status == 401:
            return False
        raise StateError("Redis failed while the keys were looked up") from error
    return True


async def _create(redis: Redis) -> dict[str, str]:
    accounts = Accounts(redis)
    account = await accounts.create_account("dev")
    project = await accounts.create_project(account.account_id, "dev")
    kept = {
        "account_id": account.account_id,
        "account_master_key": account.account_master_key,
        "project_id": project.project_id,
        "project_master_key": project.master_api_key,
    }
    for key_type in KEY_TYPES:
        key = await accounts.create_key(project.project_id, key_type)
        kept[f"{key_type.value.lower()}_key"] = key.api_key
    return kept
