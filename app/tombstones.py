"""Which events of the stream are erased: every tombstone that is kept, in the memory of whoever reads it.

New tombstones come as the entries of a stream behind the last one read: one command before events are judged,
and nothing for each of them, since it is recorded later than any tombstone, unless a spool or a dead letter
brings it back, or a tail remembers it. What hides rows from queries (`app.erasures`) would not do: it ends
when the store has none of them left.
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
from app.shown import as_shown
from app.stream import Record
from app.tombstone import Tombstone, digest

TOMBSTONES_A_READ = 100  # of up to a thousand customers each: all that are kept, the first time


class Unreadable(Exception):
    """A tombstone of another version: nobody can say what is erased."""


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
                raise Unreadable(
                    f"erasure {one.id} cannot be read by this version: let the one that wrote it work"
                )
            self.filtered.append(_Filtered(one, matcher(filters)))


class Tombstones:
    """One for each reader. `refresh` raises redis_client.UNREACHABLE and Unreadable."""

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
                    await asyncio.sleep(0)  # an edge tracks events meanwhile
                if len(entries) < TOMBSTONES_A_READ:
                    return

    def add(self, payload: bytes) -> None:
        """Apply this one from now on. Errors: Unreadable."""
        try:
            one = tombstone.decode(payload)
        except msgspec.DecodeError as error:
            raise Unreadable(f"a tombstone cannot be read: {error}") from None
        self._projects.setdefault(one.project_id, _Project()).add(one)

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
