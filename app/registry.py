"""A presented key -> Grant, from memory. The read side of the registry; `app.accounts` is the write side.

How a revocation reaches every edge in under a second, whatever is missed: each change is written together
with an entry of the changes stream, which every process follows from its last id. That is a push that
cannot be missed, since after a lost connection the follower continues where it was; and should it hear
nothing for STALE_SECONDS (a hung connection, a stopped process), memory is not trusted and each key is
looked up in Redis again. So a revoked key works for at most STALE_SECONDS longer.

While Redis cannot be reached at all, no key can be revoked either: keys confirmed before go on working for
`limits.grant_grace` seconds, unknown ones get 503, never 401.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import registry_scripts as scripts
from app.accounts import Accounts
from app.errors import ApiError
from app.errors import Kind as ErrorKind
from app.grant import Grant, KeyType, digest, invalid, not_one
from app.names import Names
from app.redis_client import stop_tasks
from app.settings import Settings

STALE_SECONDS = 0.5  # without a word from the changes stream; a revoked key lives at most this much longer
BLOCK_MS = 200
FOLLOW_SECONDS = 1.0  # one read of the changes; a connection that hangs longer is replaced
LOOKUP_SECONDS = 2.0
RETRY_SECONDS = 0.1
FLUSH_SECONDS = 5.0
MAX_GRANTS = 50_000
UNKNOWN_SECONDS = 0.5  # a key that does not exist is not asked for again so soon
MAX_UNKNOWN = 10_000
MAX_SECRET_CHARACTERS = 200

log = structlog.get_logger()
_GRANT = msgspec.json.Decoder(Grant)


class _Remembered(msgspec.Struct):
    """A grant, and when Redis last confirmed it (monotonic seconds)."""

    grant: Grant
    confirmed: float


class Registry:
    """Grants for one process. `names` and `accounts` are its other halves."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        limits = settings.limits
        self._redis = redis
        self._grace_seconds = limits.grant_grace
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._unknown: dict[str, float] = {}
        self._used: dict[str, int] = {}
        self._heard = 0.0
        self._last_change = ""
        self._generation = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._touch = redis.register_script(scripts.TOUCH_KEYS)
        self.names = Names(redis, limits.max_event_names, limits.max_field_paths, lambda: self._generation)
        self.accounts = Accounts(redis)

    async def start(self) -> None:
        """Begin to follow the changes. Does not wait for Redis: until it answers, keys get 503."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._flush())]

    async def close(self) -> None:
        """Stop following and write the last uses, if Redis takes them within a second."""
        await stop_tasks(*self._tasks)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._write_uses()

    def cached(self, secret: str, key_type: KeyType) -> Grant | None:
        """The grant from memory, if it is known, of this type, and certainly still valid. No I/O."""
        now = time.monotonic()
        if now - self._heard > STALE_SECONDS:
            return None
        remembered = self._remembered.get(digest(secret))
        if remembered is None or remembered.grant.key_type is not key_type:
            return None
        grant = remembered.grant
        wall_ms = time.time_ns() // 1_000_000
        if grant.expires_at_ms is not None and grant.expires_at_ms <= wall_ms:
            return None
        if grant.api_key_id:
            self._used[grant.api_key_id] = wall_ms
        return grant

    async def authorise(self, secret: str | None, key_type: KeyType) -> Grant:
        """The grant of `secret`, from memory or Redis.

        Errors: ApiError 401 for a key that is missing, unknown, expired, revoked or of another type; 503
        when Redis cannot be asked and the key is not known.
        """
        if not secret or len(secret) > MAX_SECRET_CHARACTERS:
            raise _refusal(
                key_type, "Send the key in this header." if not secret else "This is no key of ours."
            )
        grant = self.cached(secret, key_type) or await self._look_up(digest(secret))
        if grant is None:
            raise _refusal(key_type, "The key is unknown or was revoked.")
        if grant.key_type is not key_type:
            raise ApiError(
                not_one(key_type),
                f"This is a {grant.key_type.value} key; a {key_type.value} key is needed here.",
            )
        wall_ms = time.time_ns() // 1_000_000
        if grant.expires_at_ms is not None and grant.expires_at_ms <= wall_ms:
            raise _refusal(key_type, "The key has expired.")
        if grant.api_key_id:
            self._used[grant.api_key_id] = wall_ms
        return grant

    async def _look_up(self, hashed: str) -> Grant | None:
        """Ask Redis, and remember the answer. Errors: ApiError 503."""
        now = time.monotonic()
        is_fresh = now - self._heard <= STALE_SECONDS
        if is_fresh and self._unknown.get(hashed, 0.0) > now:
            return None
        generation = self._generation
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                payload = await self._redis.get(scripts.grant(hashed))
        except (RedisError, OSError, TimeoutError):
            return self._from_memory(hashed)
        if payload is None:
            self._remembered.pop(hashed, None)
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[hashed] = time.monotonic() + UNKNOWN_SECONDS
            return None
        grant = _GRANT.decode(payload)
        if self._generation == generation:  # otherwise it may have been revoked while the answer travelled
            self._remembered[hashed] = _Remembered(grant, time.monotonic())
            if len(self._remembered) > MAX_GRANTS:
                self._remembered.popitem(last=False)
        return grant

    def _from_memory(self, hashed: str) -> Grant:
        """Redis is away: a grant that it confirmed not too long ago."""
        remembered = self._remembered.get(hashed)
        if remembered is not None:
            confirmed = max(remembered.confirmed, self._heard)
            if time.monotonic() - confirmed <= self._grace_seconds:
                return remembered.grant
        raise ApiError(
            ErrorKind.UNAVAILABLE, "The key cannot be checked now; nothing was kept.", retry_after_seconds=2
        )

    async def _follow(self) -> None:
        """Forget what changed, for ever."""
        is_new = True  # after a lost connection, look whether changes were trimmed meanwhile
        while True:
            try:
                async with asyncio.timeout(FOLLOW_SECONDS):
                    if is_new:
                        await self._check_gap()
                        is_new = False
                    changes = await self._redis.xread({scripts.CHANGES: self._last_change}, 1000, BLOCK_MS)
            except (RedisError, OSError, TimeoutError):
                is_new = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for _, entries in _streams(changes):
                for entry_id, change in entries:
                    self._apply(change[b"what"].decode(), change[b"id"].decode())
                    self._last_change = entry_id.decode()
            self._heard = time.monotonic()

    async def _check_gap(self) -> None:
        """Forget everything if changes that were never read are gone. The first time, begin at the end."""
        if not self._last_change:
            newest = cast("list[tuple[bytes, object]]", await self._redis.xrevrange(scripts.CHANGES, count=1))
            self._last_change = newest[0][0].decode() if newest else "0-0"
            return
        first = cast("list[tuple[bytes, object]]", await self._redis.xrange(scripts.CHANGES, count=1))
        if first and _order(first[0][0].decode()) > _order(self._last_change):
            self._generation += 1
            self._remembered.clear()
            self._unknown.clear()
            self.names.forget(None)

    def _apply(self, what: str, identity: str) -> None:
        self._generation += 1
        if what == "grant":
            self._remembered.pop(identity, None)
            self._unknown.pop(identity, None)
        elif what == "project":
            gone = [hashed for hashed, one in self._remembered.items() if one.grant.project_id == identity]
            for hashed in gone:
                del self._remembered[hashed]
            self.names.forget(identity)
        elif what == "names":
            self.names.forget(identity)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._write_uses()
            except (RedisError, OSError, TimeoutError):
                log.debug("last uses were not written")  # they only date a list

    async def _write_uses(self) -> None:
        used, self._used = self._used, {}
        pairs = list(used.items())
        for start in range(0, len(pairs), 1000):
            some = pairs[start : start + 1000]
            await self._touch(keys=[scripts.USED], args=[part for pair in some for part in pair])
        await self.names.flush()


def _streams(answer: object) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """redis-py's answer to XREAD, which it types as everything it could be."""
    return cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", answer or [])


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _refusal(key_type: KeyType, detail: str) -> ApiError:
    return ApiError(invalid(key_type), detail)
