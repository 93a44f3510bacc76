"""All dead letters of a partition, oldest first, a page at a time: for erasing, expiring and verifying."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from redis.asyncio import Redis

from app.stream import Keys

LETTERS_A_READ = 100  # one may hold a megabyte


async def payloads(redis: Redis, keys: Keys) -> AsyncIterator[tuple[str, bytes]]:
    """The entry's id and the letter's bytes, which may be of no drain of ours (`app.dead_letter.decode`).

    Whoever reads may take letters away meanwhile. Errors: redis_client.UNREACHABLE.
    """
    after = "-"
    while True:
        rows = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]",
            await redis.xrange(keys.dead, min=after, count=LETTERS_A_READ),
        )
        for entry_id, fields in rows:
            after = f"({entry_id.decode()}"
            yield entry_id.decode(), fields.get(b"d", b"")
        if len(rows) < LETTERS_A_READ:
            return
