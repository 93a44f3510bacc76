"""Tokens of charts that name an erased customer are revoked, and what they stand for leaves Redis.

A token keeps its query as its maker sent it, and its maker's scope: both may name the customer whose events
are erased (the chart shows nothing of them any more). One that was made after the erasure's moment is about
somebody who came back. What is revoked is counted in the same step, so no crash separates the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import erasure_scripts, registry_scripts
from app.embeds import Embed, decode_embed
from app.tombstone import Tombstone

EMBEDS_A_READ = 500


class Charts:
    """Of all projects. Methods raise redis_client.UNREACHABLE."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._revoke = redis.register_script(erasure_scripts.REVOKE_CHARTS)

    async def revoke(self, ones: Iterable[Tombstone]) -> dict[str, int]:
        """Revoke the tokens that name a customer of whom one of these means all that they ever sent.

        How many each has revoked by now, this time and before: erasure -> tokens.
        """
        by_project: dict[str, list[Tombstone]] = {}
        for one in ones:
            if one.is_of_customers:
                by_project.setdefault(one.project_id, []).append(one)
        for project_id, some in by_project.items():
            await self._revoke_of(project_id, sorted(some, key=lambda one: one.id))
        ids = [one.id for some in by_project.values() for one in some]
        numbers = await self._redis.hmget(erasure_scripts.CHARTS, ids) if ids else []
        return {id_: int(number) for id_, number in zip(ids, numbers, strict=True) if number is not None}

    async def forget(self, erasure_ids: Sequence[str]) -> None:
        """Their number has been told for good."""
        await self._redis.hdel(erasure_scripts.CHARTS, *erasure_ids)

    async def _revoke_of(self, project_id: str, ones: Sequence[Tombstone]) -> None:
        meant: dict[str, list[Tombstone]] = {}
        for one in ones:
            for customer in one.customers or ():
                meant.setdefault(customer, []).append(one)
        of_project = registry_scripts.embeds(registry_scripts.project(project_id))
        ids = cast("list[bytes]", await self._redis.zrange(of_project, 0, -1))
        for start in range(0, len(ids), EMBEDS_A_READ):
            some = ids[start : start + EMBEDS_A_READ]
            payloads = await self._redis.mget([registry_scripts.embed(id_.decode()) for id_ in some])
            for embed in (decode_embed(payload) for payload in payloads if payload is not None):
                naming = (one for name in _named(embed) for one in meant.get(name, ()))
                erasures = [one.id for one in naming if embed.created_at_ms <= one.up_to_ms]
                if erasures:
                    await self._revoke_one(embed, min(erasures), of_project)

    async def _revoke_one(self, embed: Embed, erasure_id: str, of_project: str) -> None:
        of_key = registry_scripts.embeds(registry_scripts.key(embed.grant.api_key_id))
        await self._revoke(
            keys=[of_project, of_key, registry_scripts.embed(embed.token_id), erasure_scripts.CHARTS],
            args=[embed.token_id, erasure_id],
        )


def _named(embed: Embed) -> Iterator[str]:
    """Whom it may name: the customer of its scope, and each value of its query, whatever field that is
    compared with."""
    if embed.grant.customer_identifier is not None:
        yield embed.grant.customer_identifier
    yield from _texts(msgspec.json.decode(embed.body))


def _texts(value: object) -> Iterator[str]:
    """Every string in a JSON value, names apart."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case list(items):
                waiting += items
            case dict(members):
                waiting += members.values()
