"""A presented key -> Grant, from memory. The read side of the registry; `app.accounts` is the write side.

How a revocation reaches every edge in under a second, whatever is missed: each change is written together
with an entry of the changes stream, which every process follows (`app.changes`); normally that takes
milliseconds. Memory is believed for STALE_SECONDS after Redis last confirmed it, by the stream or by a
lookup of that very key; then Redis is asked. So a revoked key works for at most STALE_SECONDS longer (0.4 s);
if a lookup fails once on the way, LOOKUP_SECONDS and AWAY_SECONDS more (0.95 s).

While Redis cannot be reached at all: keys that were confirmed before go on working for `limits.grant_grace`
seconds after their last confirmation, unknown ones get 503, never 401.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict

import msgspec
import structlog
from redis.asyncio import Redis

from app import redis_client
from app import registry_scripts as scripts
from app.accounts import Accounts
from app.changes import READ_SECONDS, Follower
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType, digest, invalid, not_one
from app.names import Names
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.single_flight import SingleFlight

STALE_SECONDS = 0.4  # for which an answer of Redis is believed; the follower renews it twice as often
LOOKUP_SECONDS = 0.4  # then Redis counts as away
AWAY_SECONDS = 0.15  # after a failed lookup, before Redis is asked again: an outage must not slow known keys
MAX_LOOKUPS = 32  # at once; the connection pool has 100 for everybody
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 1.0
MAX_GRANTS = 50_000
MAX_USED = 50_000  # distinct keys between two flushes; beyond, last use is a little older
UNKNOWN_SECONDS = 0.5  # a key that does not exist is not asked for again so soon
MAX_UNKNOWN = 10_000
MAX_SECRET_CHARACTERS = 200

log = structlog.get_logger()
_GRANT = msgspec.json.Decoder(Grant)


class _Remembered(msgspec.Struct):
    """A grant, and the moment for which a lookup confirmed it (monotonic seconds)."""

    grant: Grant
    confirmed: float


class Registry:
    """Grants for one process. `names` and `accounts` are its other halves.

    Before `start` it works too, and asks Redis more often.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        limits = settings.limits
        self._redis = redis
        self._grace_seconds = limits.grant_grace
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._unknown: dict[str, float] = {}
        self._used: dict[str, int] = {}
        self._away_until = 0.0
        self._generation = 0
        self._is_closed = False
        self._lookups: SingleFlight[str, Grant | None] = SingleFlight(MAX_LOOKUPS)
        self._tasks: list[asyncio.Task[None]] = []
        self._touch = redis.register_script(scripts.TOUCH_KEYS)
        # A connection of its own: a blocking read must not wait for, nor take, one of the pool's.
        self._changes_redis = redis_client.connect(settings, timeout_seconds=READ_SECONDS)
        self._follower = Follower(self._changes_redis, self._apply, self._forget_all)
        self.names = Names(redis, limits.max_event_names, limits.max_field_paths)
        self.accounts = Accounts(redis, self._apply)

    async def start(self) -> None:
        """Begin to follow the changes. Does not wait for Redis: until it answers, keys get 503."""
        self._tasks = [asyncio.create_task(self._follower.follow()), asyncio.create_task(self._flush())]

    async def close(self) -> None:
        """Stop following and write the last uses, if Redis takes them in time."""
        self._is_closed = True
        self._follower.stop()
        if self._tasks:
            await redis_client.stop_tasks(*self._tasks)
        with contextlib.suppress(*UNREACHABLE):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._write_uses()
        with contextlib.suppress(*UNREACHABLE):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._changes_redis.aclose()

    def cached(self, secret: str, key_type: KeyType) -> Grant | None:
        """The grant from memory, if it is known, of this type, and certainly still valid. No I/O."""
        grant = self._confirmed(digest(secret))
        if grant is None or grant.key_type is not key_type or _has_expired(grant):
            return None
        self._note_use(grant)
        return grant

    async def authorise(self, secret: str | None, key_type: KeyType) -> Grant:
        """The grant of `secret`, from memory or Redis.

        Errors: ApiError 401 for a key that is missing, unknown, expired, revoked or of another type; 503
        when Redis cannot be asked and the key is not known.
        """
        if not secret:
            raise ApiError(invalid(key_type), "Send the key in this header.")
        if len(secret) > MAX_SECRET_CHARACTERS:
            raise ApiError(invalid(key_type), "This is no key of ours: it is too long.")
        hashed = digest(secret)
        grant = self._confirmed(hashed) or await self._look_up(hashed)
        if grant is None:
            raise ApiError(invalid(key_type), "The key is unknown or was revoked.")
        if grant.key_type is not key_type:
            raise ApiError(
                not_one(key_type),
                f"The key is of type {grant.key_type.value}; {key_type.value} is needed here.",
            )
        if _has_expired(grant):
            raise ApiError(invalid(key_type), "The key has expired.")
        self._note_use(grant)
        return grant

    def _confirmed(self, hashed: str) -> Grant | None:
        """A grant whose last confirmation is recent enough to be believed."""
        remembered = self._remembered.get(hashed)
        if remembered is None:
            return None
        oldest = time.monotonic() - STALE_SECONDS
        if remembered.confirmed < oldest and self._follower.current_at < oldest:
            return None
        self._remembered.move_to_end(hashed)
        return remembered.grant

    async def _look_up(self, hashed: str) -> Grant | None:
        """Ask Redis. Errors: ApiError 503."""
        now = time.monotonic()
        if self._unknown.get(hashed, 0.0) > now:
            return None
        if now < self._away_until:
            return self._from_memory(hashed)
        try:
            return await self._lookups.do(hashed, LOOKUP_SECONDS, lambda: self._ask(hashed))
        except UNREACHABLE:
            self._away_until = time.monotonic() + AWAY_SECONDS
            return self._from_memory(hashed)

    async def _ask(self, hashed: str) -> Grant | None:
        asked, generation = time.monotonic(), self._generation
        payload = await self._redis.get(scripts.grant(hashed))
        self._away_until = 0.0
        if payload is None:
            self._remembered.pop(hashed, None)
            if self._generation == generation:  # otherwise it may have been made meanwhile
                if len(self._unknown) >= MAX_UNKNOWN:
                    self._unknown.clear()
                self._unknown[hashed] = asked + UNKNOWN_SECONDS
            return None
        grant = _GRANT.decode(payload)
        if self._generation == generation:  # otherwise it may have been revoked while the answer travelled
            self._remembered[hashed] = _Remembered(grant, asked)
            if len(self._remembered) > MAX_GRANTS:
                self._remembered.popitem(last=False)
        return grant

    def _from_memory(self, hashed: str) -> Grant:
        """Redis is away: a grant that it confirmed not too long ago. Errors: ApiError 503."""
        remembered = self._remembered.get(hashed)
        if remembered is not None:
            confirmed = max(remembered.confirmed, self._follower.current_at)
            if time.monotonic() - confirmed <= self._grace_seconds:
                return remembered.grant
        raise ApiError(
            Kind.UNAVAILABLE, "The key cannot be checked now; nothing was kept.", retry_after_seconds=2
        )

    def _note_use(self, grant: Grant) -> None:
        if grant.api_key_id and (len(self._used) < MAX_USED or grant.api_key_id in self._used):
            self._used[grant.api_key_id] = time.time_ns() // 1_000_000

    def _apply(self, what: str, identity: str) -> None:
        """Forget what a change makes untrue, whether this process made it or read of it."""
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

    def _forget_all(self) -> None:
        self._generation += 1
        self._remembered.clear()
        self._unknown.clear()
        self.names.forget(None)

    async def _flush(self) -> None:
        while not self._is_closed:  # see Follower.stop
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._write_uses()
            except UNREACHABLE:
                log.debug("last uses were not written")  # they only date a list
            except Exception as error:
                log.error("last uses cannot be written", error=type(error).__name__)

    async def _write_uses(self) -> None:
        used, self._used = self._used, {}
        pairs = list(used.items())
        for start in range(0, len(pairs), 1000):
            some = pairs[start : start + 1000]
            await self._touch(keys=[scripts.USED], args=[part for pair in some for part in pair])
        await self.names.flush()


def _has_expired(grant: Grant) -> bool:
    return grant.expires_at_ms is not None and grant.expires_at_ms <= time.time_ns() // 1_000_000
