"""Erasures as edges know them: begun here, looked up for every query, told of in their status.

A tombstone lies in Redis, where queries and drains look, and in the store, where queries look while Redis is
away. Both are written before the answer. `workers.erase_round` and `workers.erase_proof` do the erasing.

**The moment.** Events recorded up to it are meant, by the clocks of all edges: it lies a little ahead of the
fastest of them when the tombstone is written, and the answer waits until the slowest has passed it. So what
was answered before is not after it, and what is recorded after the answer is not before it. What the request
has found in the store is not after it either, though a clock has stepped back since, by two seconds at most.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import presence, tombstone
from app.erasure_report import Open, Report, decode_report, encode_open, encode_report, new_id
from app.redis_client import UNREACHABLE
from app.scope import Erased
from app.store import Store
from app.tombstone import Tombstone

MAX_HIDDEN = 1000  # erasures of one project whose rows are not gone yet: every query looks away from them
MAX_COSTLY = 50  # of them that mean more than customers: a condition each, where all customers share one
MAX_HIDDEN_BYTES = 64 * 1024  # of their tombstones: they go into each statement
BOUND_SHARE = 2  # keys of single customers fill a half of each: theirs cannot keep the project from erasing
LEAD_MS = 250  # for writing the tombstone, and for clocks that were read a moment ago
MAX_WAIT_MS = 2_000  # for an edge whose clock is behind the others'
MAX_AHEAD_MS = 2_000  # of stored events before all clocks, one of which has stepped back: they are meant too
ATTEMPTS = 6  # each with twice the lead of the one before
REDIS_SECONDS = 1.0  # of a query; then the store is asked
STORE_SECONDS = 5.0
_INSERT = "INSERT INTO erasures (erasure_id, project_id, tombstone) FORMAT JSONEachRow"
_HIDDEN = "SELECT DISTINCT tombstone FROM erasures WHERE project_id = {project:String}"


class TooMany(Exception):
    """The project has as many erasures under way as may be."""


class Erasures:
    """Methods raise redis_client.UNREACHABLE and StoreError."""

    def __init__(self, redis: Redis, store: Store, queue: str) -> None:
        self._redis = redis
        self._store = store
        self._queue = queue
        self._add = redis.register_script(scripts.ADD)

    async def horizon_ms(self) -> int:
        """Up to when what is stored is meant by an erasure that begins now. Unix ms."""
        return (await self._clocks()).latest_ms + MAX_AHEAD_MS

    async def begin(self, wanted: Tombstone, matched: int, owner: str, *, latest_ms: int = 0) -> Report:
        """From the return on no query sees the events. Errors: TooMany, and TimeoutError when writing took so
        long each time that events may have been recorded after the moment and before the answer.

        `latest_ms`: when the last of the `matched` events was recorded; the moment is not before it.
        """
        asked_at = _now_ms()
        erasure_id = new_id(asked_at)
        for attempt in range(ATTEMPTS):
            clocks = await self._clocks()
            lead_ms = max(LEAD_MS << attempt, latest_ms - clocks.latest_ms)
            up_to = clocks.latest_ms + lead_ms
            end = time.monotonic() + lead_ms / 1000
            one = msgspec.structs.replace(wanted, id=erasure_id, up_to_ms=up_to)
            report = Report(
                erasure_id=erasure_id,
                project_id=one.project_id,
                owner=owner,
                asked_at=asked_at,
                up_to=up_to,
                customers=None if one.customers is None else len(one.customers),
                time_period=one.period,
                filters=len(one.filters),
                matched=matched,
            )
            await self._write(one, report)
            if time.monotonic() < end:
                behind_ms = min(clocks.latest_ms - clocks.earliest_ms, MAX_WAIT_MS)
                await asyncio.sleep(end - time.monotonic() + behind_ms / 1000 + 0.001)
                return report
        raise TimeoutError

    async def hidden(self, project_id: str) -> tuple[Erased, ...]:
        """What queries of the project must not see, wherever that is known now."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                payloads = cast("list[bytes]", await self._redis.hvals(scripts.hidden(project_id)))
        except UNREACHABLE:
            rows = await self._store.ask(
                _HIDDEN, {"project": project_id}, settings={"readonly": 2}, timeout_seconds=STORE_SECONDS
            )
            payloads = [str(payload).encode() for (payload,) in rows.rows]
        return tuple(tombstone.to_erased(payload) for payload in payloads)

    async def report(self, project_id: str, erasure_id: str) -> Report | None:
        """The status of one erasure of the project."""
        payload = await self._redis.get(scripts.report(erasure_id))
        found = None if payload is None else decode_report(payload)
        return found if found is not None and found.project_id == project_id else None

    async def page(
        self, project_id: str, owner: str, before: str, limit: int
    ) -> tuple[list[Report], str | None]:
        """Reports, newest first, from behind the id `before` ("": the newest), and the next `before`.

        `owner`: only those that a key of this customer asked for; "" for all.
        """
        found: list[Report] = []
        while True:
            most = f"({before}" if before else "+"
            ids = cast(
                "list[bytes]",
                await self._redis.zrevrangebylex(scripts.of(project_id), most, "-", 0, limit),
            )
            payloads = await self._redis.mget([scripts.report(one.decode()) for one in ids]) if ids else []
            for erasure_id, payload in zip(ids, payloads, strict=True):
                before = erasure_id.decode()
                if payload is None:  # kept for long enough
                    await self._redis.zrem(scripts.of(project_id), erasure_id)
                    continue
                report = decode_report(payload)
                if not owner or report.owner == owner:
                    found.append(report)
                    if len(found) == limit:
                        return found, before
            if len(ids) < limit:
                return found, None

    async def _write(self, one: Tombstone, report: Report) -> None:
        plain = tombstone.encode(one)
        share = BOUND_SHARE if report.owner else 1
        row = {"erasure_id": one.id, "project_id": one.project_id, "tombstone": plain.decode()}
        done = await self._add(
            keys=[
                *(scripts.LOG, scripts.hidden(one.project_id), scripts.OPEN),
                *(scripts.of(one.project_id), scripts.report(one.id)),
            ],
            args=[
                *(one.id, tombstone.encode(tombstone.without_names(one)), plain),
                *(encode_open(Open(one.project_id, one.up_to_ms)), encode_report(report)),
                *(most // share for most in (MAX_HIDDEN, MAX_HIDDEN_BYTES, MAX_COSTLY)),
            ],
        )
        if not int(done):
            raise TooMany
        token = f"{one.id}-{one.up_to_ms}"
        await self._store.insert(
            _INSERT,
            msgspec.json.encode(row),
            token=token,
            query_id=token,
            settings={"async_insert": 0},
            timeout_seconds=STORE_SECONDS,
        )

    async def _clocks(self) -> _Clocks:
        """The clocks of all edges at this moment, as far as their beats tell how they differ from Redis's."""
        seconds, microseconds = await self._redis.time()
        redis_ms, own_ms = int(seconds) * 1000 + int(microseconds) // 1000, _now_ms()
        edges = await presence.clocks(self._redis, self._queue)
        return _Clocks(min(own_ms, redis_ms + edges.least), max(own_ms, redis_ms + edges.most))


class _Clocks(msgspec.Struct, frozen=True):
    earliest_ms: int
    latest_ms: int


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
