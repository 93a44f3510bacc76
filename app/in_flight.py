"""Was an event erased while its client waited for it to be stored (`app.watermark`)?

Hardly ever, and nothing is asked of the store unless its project has asked for an erasure in the last minute:
tombstones come as the entries of a stream behind the last one read, one command for all who wait. Then the
store tells: what a query sees is stored; of the rest, what has a row that is hidden, or is remembered as
erased, was erased.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import ledger
from app.scope import Hiding, Scope
from app.sql_fields import elements
from app.sql_filters import asked, where
from app.sql_literals import Parameters
from app.store import Store, Value
from app.time_period import WHOLE
from app.whereabouts import STORE_MARGIN_MS, UniqueReqId

BEFORE_MS = 60_000  # a tombstone means what is recorded seconds after it, more where clocks differ
TOMBSTONES_A_READ = 1000
MAX_PROJECTS = 10_000  # remembered; those of the last minute are fewer
STORE_SECONDS = 2.0


class _Written(msgspec.Struct, frozen=True):
    """What matters here of a tombstone, of whatever version."""

    project_id: str


_DECODE = msgspec.json.Decoder(_Written).decode


class InFlight:
    """Of one process. Methods raise redis_client.UNREACHABLE and StoreError."""

    def __init__(self, redis: Redis, store: Store, hiding: Hiding) -> None:
        self._redis = redis
        self._store = store
        self._hiding = hiding
        self._last = (0, 0)  # id of the last tombstone that was read
        self._erasing: dict[str, int] = {}  # project -> when its last tombstone was written, Unix ms of Redis

    async def erasing(self, since_ms: int) -> Collection[str]:
        """The projects of which events of this moment, or later, may be erased. `since_ms`: Redis's clock."""
        since_ms -= BEFORE_MS
        while True:
            milliseconds, sequence = max(self._last, (since_ms, -1))
            start = f"({milliseconds}-{sequence}" if sequence >= 0 else str(max(0, milliseconds))
            entries = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                await self._redis.xrange(scripts.LOG, min=start, count=TOMBSTONES_A_READ),
            )
            for entry_id, fields in entries:
                written, _, number = entry_id.decode().partition("-")
                self._last = (int(written), int(number))
                self._erasing[_DECODE(fields[b"t"]).project_id] = int(written)
            if len(entries) < TOMBSTONES_A_READ:
                break
        if len(self._erasing) > MAX_PROJECTS:
            self._erasing = {one: at for one, at in self._erasing.items() if at >= since_ms}
        return {one for one, at in self._erasing.items() if at >= since_ms}

    async def erased(self, project_id: str, unique_req_ids: Collection[str]) -> set[str]:
        """Those of these events, whose entries are acknowledged, that were erased."""
        # Read before the rows are: an erasure that ends in between has left its fates.
        scope = Scope(project_id, None, await self._hiding.hidden(project_id))
        parameters = Parameters()
        seen_by_queries = where(scope, WHOLE, (), parameters)
        named = elements(asked(scope, ()))
        ids = [UniqueReqId(bytes.fromhex(one)) for one in unique_req_ids]
        digits = "".join(one.value.hex() for one in ids)
        which: dict[str, Value] = {
            "project": project_id,
            "from": min(one.milliseconds for one in ids) - STORE_MARGIN_MS,
            "to": max(one.milliseconds for one in ids) + STORE_MARGIN_MS,
        }
        chosen = (
            "project_id = {project:String}"  # noqa: S608
            " AND time_recorded BETWEEN fromUnixTimestamp64Milli({from:Int64})"
            " AND fromUnixTimestamp64Milli({to:Int64}) AND unique_req_id IN"
            f" (SELECT toFixedString(substring(unhex('{digits}'), number * 16 + 1, 16), 16)"
            f" FROM numbers({len(ids)}))"
        )
        found = "SELECT lower(hex(unique_req_id)) FROM"
        seen = await self._ask(
            f"{named}{found} events WHERE {chosen} AND {seen_by_queries}", which | parameters.values
        )
        if len(seen) == len(ids):
            return set()
        known = await self._ask(
            f"{found} events WHERE {chosen}"
            f" UNION ALL {found} fates WHERE {chosen} AND fate = '{ledger.ERASED}'",
            which,
        )
        return known - seen

    async def _ask(self, sql: str, parameters: Mapping[str, Value]) -> set[str]:
        settings = {"readonly": 2, "max_threads": 1}
        rows = await self._store.ask(sql, parameters, settings=settings, timeout_seconds=STORE_SECONDS)
        return {str(one) for (one,) in rows.rows}
