"""Which events are erased before they are stored: every tombstone that is kept, in the memory of a drain.

Asked for each batch, between reading its entries and saving its plan. So an entry that was appended after a
tombstone is always judged by it, and what was planned before is acknowledged before the erasure goes on
(`workers.marks`). New tombstones come as the entries of a stream behind the last one read: one command for a
batch, and nothing for its events, which are recorded later than any tombstone but for what a spool or a dead
letter brings back.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterable
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import tombstone
from app.enrich import Geography
from app.envelope import read_envelope
from app.errors import Problem
from app.filters import read_filters
from app.match import matcher
from app.scope import Erased
from app.shown import as_shown
from app.stream import Record
from app.tombstone import Tombstone, digest
from workers.items import Items
from workers.plan import Halted

TOMBSTONES_A_READ = 1000


class _Filtered(msgspec.Struct, frozen=True):
    """A tombstone that means more than customers."""

    tombstone: Tombstone
    holds: Callable[[dict[str, object]], bool]


class _Project:
    """The tombstones of one project. Nothing that was recorded after `latest_ms` is erased."""

    def __init__(self) -> None:
        self.latest_ms = 0
        self.customers: dict[str, list[tuple[str, int]]] = {}  # digest -> erasures, and up to when, in order
        self.filtered: list[_Filtered] = []

    def add(self, one: Tombstone) -> None:
        self.latest_ms = max(self.latest_ms, one.up_to_ms)
        if one.is_of_customers:
            for customer in one.digests or ():
                found = self.customers.setdefault(customer, [])
                if not any(id_ <= one.id and up_to_ms >= one.up_to_ms for id_, up_to_ms in found):
                    bisect.insort(found, (one.id, one.up_to_ms))
        else:
            problems: list[Problem] = []
            filters = read_filters(list(one.filters), problems)
            if problems:
                raise Halted(
                    f"erasure {one.id} cannot be read by this version: let the one that wrote it work"
                )
            self.filtered.append(_Filtered(one, matcher(filters)))


class Tombstones:
    """One for each drain process. `refresh` raises redis_client.UNREACHABLE and Halted."""

    def __init__(self, redis: Redis, geography: Geography) -> None:
        self._redis = redis
        self._geography = geography
        self._projects: dict[str, _Project] = {}
        self._last = "-"
        self._turn = asyncio.Lock()

    async def refresh(self) -> None:
        """Learn of every tombstone that was written before this call."""
        async with self._turn:
            while True:
                entries = cast(
                    "list[tuple[bytes, dict[bytes, bytes]]]",
                    await self._redis.xrange(scripts.LOG, min=self._last, count=TOMBSTONES_A_READ),
                )
                for entry_id, fields in entries:
                    self.add(fields[b"t"])
                    self._last = f"({entry_id.decode()}"
                if len(entries) < TOMBSTONES_A_READ:
                    return

    def add(self, payload: bytes) -> None:
        """Apply this one from now on. Errors: Halted where this version cannot read it."""
        try:
            one = tombstone.decode(payload)
        except msgspec.DecodeError as error:
            raise Halted(f"a tombstone cannot be read: {error}") from None
        self._projects.setdefault(one.project_id, _Project()).add(one)

    async def hidden(self, items: Items) -> dict[str, tuple[Erased, ...]]:
        """Project -> tombstones of which the store may still hold rows, for projects of events with an id.

        Errors: UNREACHABLE, Halted.
        """
        records = (items[row].record for row in items.keyed) if self._projects else ()
        projects = sorted({one.project_id for one in records if one is not None} & self._projects.keys())
        pipeline = self._redis.pipeline(transaction=False)
        for project_id in projects:
            pipeline.hvals(scripts.hidden(project_id))
        found = cast("list[list[bytes]]", await pipeline.execute()) if projects else []
        try:
            return {
                project_id: tuple(map(tombstone.to_erased, payloads))
                for project_id, payloads in zip(projects, found, strict=True)
                if payloads
            }
        except (msgspec.DecodeError, ValueError) as error:
            raise Halted(f"a tombstone cannot be read: {error}") from None

    def find(self, records: Iterable[Record | None]) -> list[tuple[int, str]]:
        """The positions of what is erased, each with the id of an erasure that means it."""
        if not self._projects:
            return []
        found = []
        for position, record in enumerate(records):
            if record is not None and (erasure := self.erasure_of(record)):
                found.append((position, erasure))
        return found

    def erasure_of(self, record: Record) -> str:
        """The id of the erasure that was asked for first of those that mean this event, "" where none does:
        as rounds choose (`workers.erase_sql`), though filters come after customers here."""
        project = self._projects.get(record.project_id)
        if project is None or record.time_recorded > project.latest_ms:
            return ""
        customer = digest(record.project_id, read_envelope(record).customer_identifier)
        for erasure_id, up_to_ms in project.customers.get(customer, ()):
            if record.time_recorded <= up_to_ms:
                return erasure_id
        return self._filtered(record, project, customer) if project.filtered else ""

    def _filtered(self, record: Record, project: _Project, customer: str) -> str:
        try:
            event = as_shown(record, self._geography)
        except (msgspec.DecodeError, ValueError):
            event = None  # no row can be made of it: only of whom it is can be told
        for one in project.filtered:
            it = one.tombstone
            if record.time_recorded > it.up_to_ms or (it.digests is not None and customer not in it.digests):
                continue
            if event is None:
                if it.period is None and not it.filters:
                    return it.id
                continue
            moment = cast(int, event["event_time"])
            is_in = it.period is None or it.period.start_ms <= moment < it.period.end_ms
            if is_in and one.holds(event):
                return it.id
        return ""
