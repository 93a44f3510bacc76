"""What tokens that embed charts stand for, in Redis: kept, found, listed, revoked; and the keys that sign.

Redis is asked for every page, so a token is dead the moment it is revoked, on every edge: there is no memory
to be told. (A page costs a query anyway; while Redis is away, embedded charts say so and come back by
themselves.) A token dies with the key that made it and with their project: the scripts that delete those
delete it in the same step.

The signing keys are made by whoever needs the first one. They are two at most: `eventbunker charts
rotate-key` makes a new one, and tokens of the one before go on working until the next rotation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import registry_scripts as scripts
from app.embed_token import SIGNING_KEY_BYTES, EmbedToken, new_token, read_token
from app.errors import ApiError, Kind, Problem, invalid_body
from app.grant import Grant
from app.redis_client import UNREACHABLE

MAX_OF_PROJECT = 10_000
MAX_OF_KEY = 5000  # so that one key, which may stand in a page's source, takes not all of them
ASK_SECONDS = 1.0
RELOAD_SECONDS = 1.0  # between two looks at the signing keys, however many made-up tokens come
_ENCODER = msgspec.json.Encoder()


class Embed(msgspec.Struct, frozen=True):
    """What a token fixes: `grant` is its maker's, `body` the query with its chart, as the client sent it.

    Times are Unix milliseconds. `digest`: of the token, hex.
    """

    token_id: str
    digest: str
    grant: Grant
    body: str
    title: str
    type: str
    created_at_ms: int
    expires_at_ms: int
    allowed_origins: tuple[str, ...] = ()


decode_embed = msgspec.json.Decoder(Embed).decode


class Embeds:
    """Of one process. All methods raise ApiError 503 when Redis does not answer in time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._create = redis.register_script(scripts.CREATE_EMBED)
        self._revoke = redis.register_script(scripts.REVOKE_EMBEDS)
        self._signing = redis.register_script(scripts.SIGNING_KEYS)
        self._keys: tuple[bytes, ...] = ()
        self._loaded_at = float("-inf")

    async def create(
        self,
        grant: Grant,
        body: str,
        *,
        title: str,
        kind: str,
        expires_at_ms: int,
        allowed_origins: tuple[str, ...],
    ) -> tuple[str, Embed]:
        """A new token, shown once, and what it stands for. Errors: ApiError 401, 429."""
        now_ms = _now_ms()
        async with _redis_answers():
            keys = await self._load()
            text, token = new_token(expires_at_ms, keys[0])
            embed = Embed(
                token.token_id, token.digest, grant, body, title, kind, now_ms, expires_at_ms, allowed_origins
            )
            done = await self._create(
                keys=[
                    *_keys_of(grant),
                    *(scripts.embeds(key) for key in _keys_of(grant)),
                    scripts.embed(token.token_id),
                ],
                args=[
                    *(token.token_id, expires_at_ms, now_ms, MAX_OF_PROJECT, MAX_OF_KEY),
                    _ENCODER.encode(embed),
                ],
            )
        if not int(done):
            raise ApiError(Kind.INVALID_QUERY_KEY, "The key is unknown or was revoked.")
        if int(done) < 0:
            what, most = ("key", MAX_OF_KEY) if int(done) == -2 else ("project", MAX_OF_PROJECT)
            raise ApiError(
                Kind.RATE_LIMITED,
                f"A {what} has at most {most:,} live tokens; revoke some, or let them expire sooner.",
                retry_after_seconds=60,
            )
        return text, embed

    async def find(self, text: str) -> Embed:
        """What the token in `text` stands for. Errors: ApiError 401, 410."""
        async with _redis_answers():
            token = await self._read(text)
            if not _is_live(token):
                raise ApiError(Kind.CHART_TOKEN_EXPIRED, "Ask whoever embedded this chart for a new one.")
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(scripts.embed(token.token_id))
                pipe.lrange(scripts.SIGNING, 0, -1)
                payload, keys = await pipe.execute()
        self._believe(keys)
        if read_token(text, self._keys) is None:  # another process has rotated them since we looked
            raise _made_up()
        embed = None if payload is None else decode_embed(payload)
        if embed is None or not hmac.compare_digest(embed.digest, token.digest):
            raise ApiError(Kind.CHART_TOKEN_REVOKED, "Whoever embedded this chart has withdrawn it.")
        return embed

    async def list(self, grant: Grant, after: str, limit: int) -> tuple[list[Embed], str | None]:
        """Live tokens that the key of `grant` made, those that expire first first; from behind `after`
        ("": the first), and the next `after`. None: this was the last page."""
        moment, _, last = after.partition("-")
        now_ms, begin = _now_ms(), int(moment or 0)
        own = scripts.embeds(scripts.key(grant.api_key_id))
        async with _redis_answers():
            # Those that expire with the last one of the page before, and then one more than a page.
            async with self._redis.pipeline() as pipe:
                pipe.zrangebyscore(own, begin, begin, withscores=True)
                pipe.zrangebyscore(own, f"({max(begin, now_ms)}", "+inf", 0, limit + 1, withscores=True)
                at_once, later = cast("list[list[tuple[bytes, float]]]", await pipe.execute())
            pairs = [(int(score), token_id.decode()) for token_id, score in (*at_once, *later)]
            pairs = [pair for pair in pairs if pair[0] > now_ms and pair > (begin, last)]
            page = pairs[:limit]
            found = await self._redis.mget([scripts.embed(token_id) for _, token_id in page] or [""])
        cursor = f"{page[-1][0]}-{page[-1][1]}" if len(pairs) > limit else None
        return [decode_embed(payload) for payload in found if payload is not None], cursor

    async def revoke(self, grant: Grant, *, token_id: str = "", token: str = "") -> int:
        """Revoke one token of the key of `grant`, by its id or by itself; without either all of them.

        Returns how many there were. Errors: ApiError 400 where the key has no such token.
        """
        async with _redis_answers():
            if token:
                token_id = (await self._read(token)).token_id
            revoked = await self._revoke(
                keys=[scripts.embeds(key) for key in _keys_of(grant)], args=[token_id] if token_id else []
            )
        if token_id and not int(revoked):
            path = "$.token" if token else "$.token_id"
            message = "this key has no such token; it may have expired or be revoked already"
            raise invalid_body([Problem(path, message)])
        return int(revoked)

    async def rotate(self) -> None:
        """Sign with a new key from now on; the one before is still believed, older ones are not."""
        async with _redis_answers():
            await self._signing(keys=[scripts.SIGNING], args=[_new_key(), 1])

    async def _read(self, text: str) -> EmbedToken:
        """The token in `text`, if it was signed by us. Errors: ApiError 401."""
        token = read_token(text, self._keys)
        if token is None and time.monotonic() - self._loaded_at > RELOAD_SECONDS:
            token = read_token(text, await self._load())
        if token is None:
            raise _made_up()
        return token

    async def _load(self) -> tuple[bytes, ...]:
        self._believe(await self._signing(keys=[scripts.SIGNING], args=[_new_key(), 0]))
        return self._keys

    def _believe(self, keys: Iterable[bytes]) -> None:
        self._keys, self._loaded_at = tuple(keys), time.monotonic()


@contextlib.asynccontextmanager
async def _redis_answers() -> AsyncIterator[None]:
    """Bounds a conversation with Redis. Errors: ApiError 503 when it does not answer."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            yield
    except UNREACHABLE:
        raise ApiError(
            Kind.UNAVAILABLE, "Tokens cannot be checked or changed now; try again.", retry_after_seconds=2
        ) from None


def _made_up() -> ApiError:
    return ApiError(Kind.INVALID_CHART_TOKEN, "The address of this chart is incomplete or made up.")


def _keys_of(grant: Grant) -> tuple[str, str]:
    return scripts.project(grant.project_id), scripts.key(grant.api_key_id)


def _is_live(token: EmbedToken) -> bool:
    return token.expires_at_ms > _now_ms()


def _new_key() -> bytes:
    return secrets.token_bytes(SIGNING_KEY_BYTES)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
