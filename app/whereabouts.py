"""Where an event is: in the stream, among the dead letters, in the store. Read-only; for receipts.

An event moves while it is looked for, always along stream -> dead letters or store, so that is the order
of the looks (`app.receipt`). Only a replay goes back, to the end of the stream: `Stream.find` can be told to
look at nothing but what came lately.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
from redis.asyncio import Redis

from app.scope import Scope
from app.sql_fields import elements
from app.sql_filters import asked, where
from app.sql_literals import Parameters
from app.store import Store
from app.stream import Keys, Record, choose_partition, split_group
from app.stream_scripts import FIND
from app.time_period import WHOLE

CALL_BYTES = 1024 * 1024  # looked through by one script: some milliseconds of Redis's time
MAX_BYTES = 64 * 1024 * 1024  # of one search
BEFORE_MS, AFTER_MS = 2_000, 15_000  # an entry is this close to the id's time unless something went wrong
PARTITIONS_AT_ONCE = 8
# Between the request's id and time_recorded lies the reading of the body; the rest is for clocks that step.
STORE_MARGIN_MS = 600_000
STORE_SECONDS = 5.0


class UniqueReqId(msgspec.Struct, frozen=True):
    """The 16 bytes of an id, taken apart."""

    value: bytes

    @property
    def request_id(self) -> bytes:
        return self.value[:12]

    @property
    def milliseconds(self) -> int:
        """When the request arrived, by the edge's clock."""
        return int.from_bytes(self.value[:6], "big")


def find_in(payloads: list[bytes], wanted: UniqueReqId) -> Record | None:
    """The record of that id in these groups; None also where the bytes stand in somebody's body."""
    for payload in payloads:
        try:
            records = split_group(payload)
        except msgspec.DecodeError:
            continue
        for record in records:
            if record.unique_req_id == wanted.value:
                return record
    return None


class Stream:
    """The entries of all partitions. Methods raise redis_client.UNREACHABLE when Redis is."""

    def __init__(self, redis: Redis, queue: str, shards: int) -> None:
        self._redis = redis
        self._queue = queue
        self._shards = shards
        self._keys: list[Keys] = []
        self.watch(shards)
        self._script = redis.register_script(FIND)

    def watch(self, most: int) -> None:
        """Look at so many partitions from now on: there were more once, and a late replay may fill them."""
        self._keys += [Keys(self._queue, partition) for partition in range(len(self._keys), most)]

    async def now(self) -> int:
        """Redis's clock, which also numbers the entries; Unix ms."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def find(
        self, wanted: UniqueReqId, project_id: str, since_ms: int | None = None
    ) -> tuple[Record | None, bool]:
        """The record of that id, and whether all was looked at that there was, MAX_BYTES at most.

        `since_ms`: only entries that are not older.
        """
        moment = wanted.milliseconds
        near, far = max(0, moment - BEFORE_MS), moment + AFTER_MS
        stretches = [(str(near), str(far)), (str(far + 1), "+"), ("-", str(max(0, near - 1)))]
        if since_ms is not None:
            stretches = [(str(since_ms), "+")]
        home = choose_partition(self._shards, project_id, "", wanted.request_id.hex())
        order = [self._keys[home], *(one for number, one in enumerate(self._keys) if number != home)]
        left = _Left(MAX_BYTES)
        slots = asyncio.Semaphore(PARTITIONS_AT_ONCE)
        for first, last in stretches:
            if first == "-" and last == "0":
                continue
            # The home partition alone: it has all events without an event_id.
            for some in (order[:1], order[1:]):
                searches = [self._search(keys, wanted, (first, last), left, slots) for keys in some]
                if found := next((one for one in await asyncio.gather(*searches) if one), None):
                    return found, True
        return None, left.is_enough

    async def _search(
        self,
        keys: Keys,
        wanted: UniqueReqId,
        stretch: tuple[str, str],
        left: _Left,
        slots: asyncio.Semaphore,
    ) -> Record | None:
        """One stretch of one partition, as far as the bytes that are left for the whole search allow."""
        first, last = stretch
        while left.bytes > 0:
            async with slots:
                answer = await self._script(
                    keys=[keys.entries], args=[wanted.request_id, first, last, CALL_BYTES]
                )
            following, size, *payloads = cast("list[bytes]", answer)
            left.bytes -= int(size)
            if found := find_in(payloads, wanted):
                return found
            if not following:
                return None
            first = following.decode()
        left.is_enough = False
        return None


class _Left:
    """How many bytes one search may still read, and whether that has been enough."""

    def __init__(self, size: int) -> None:
        self.bytes = size
        self.is_enough = True


class Row(msgspec.Struct, frozen=True, array_like=True):
    """What the store knows: `fate` is "" for an event that it holds."""

    customer_identifier: str
    time_recorded: int
    fate: str = ""
    detail: str = ""


_MOMENT = "toUnixTimestamp64Milli(time_recorded)"
_BY_ID = (
    "time_recorded BETWEEN fromUnixTimestamp64Milli({from:Int64}) AND fromUnixTimestamp64Milli({to:Int64})"
    " AND unique_req_id = toFixedString(unhex({id:String}), 16)"
)
_WHERE = f"WHERE project_id = {{project:String}} AND {_BY_ID}"
_EVENT = f"SELECT customer_identifier, {_MOMENT} FROM events {_WHERE} LIMIT 1"  # noqa: S608
_FATE = (
    f"SELECT customer_identifier, {_MOMENT}, fate, detail FROM fates {_WHERE}"  # noqa: S608
    " ORDER BY settled_at DESC LIMIT 1"
)


class Stored:
    """The tables of the store. Methods raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def event(self, wanted: UniqueReqId, project_id: str) -> Row | None:
        """The stored event of that id in the project."""
        return await self._ask(_EVENT, wanted, project_id)

    async def is_seen(self, wanted: UniqueReqId, scope: Scope) -> bool:
        """Does a query of that scope see the event?"""
        parameters = Parameters()
        seen = where(scope, WHOLE, (), parameters)
        moment = min(wanted.milliseconds, 2**43)
        result = await self._store.ask(
            f"{elements(asked(scope, ()))}SELECT 1 FROM events WHERE {seen} AND {_BY_ID} LIMIT 1",  # noqa: S608
            {
                **parameters.values,
                "id": wanted.value.hex(),
                "from": max(0, moment - STORE_MARGIN_MS),
                "to": moment + STORE_MARGIN_MS,
            },
            settings={"readonly": 2, "max_threads": 1},
            timeout_seconds=STORE_SECONDS,
        )
        return bool(result.rows)

    async def fate(self, wanted: UniqueReqId, project_id: str) -> Row | None:
        """What was written last of an event that is not stored."""
        return await self._ask(_FATE, wanted, project_id)

    async def _ask(self, sql: str, wanted: UniqueReqId, project_id: str) -> Row | None:
        moment = min(wanted.milliseconds, 2**43)  # beyond it no clock and no DateTime64 reaches
        result = await self._store.ask(
            sql,
            {
                "project": project_id,
                "id": wanted.value.hex(),
                "from": max(0, moment - STORE_MARGIN_MS),
                "to": moment + STORE_MARGIN_MS,
            },
            settings={"readonly": 2, "max_threads": 1},
            timeout_seconds=STORE_SECONDS,
        )
        return msgspec.convert(result.rows[0], Row) if result.rows else None
