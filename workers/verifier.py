"""Compares the ledger with the store, by project and hour, also while events arrive.

    rows in the store  ==  stored            in each project and hour
    rows               ==  distinct ids      nothing is doubled
    appended           ==  every fate + what waits in the stream
    dead letters       ==  dead

Reads the ledger, then the store, then the ledger again; looks anew at what moved. What may be concluded
from such numbers is `workers.reconcile`'s, counting `workers.count_rows`'s, the command `workers.verify`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import canary, dead_letter, erasure_scripts, ledger, registry_scripts
from app.erasure_report import decode_open
from app.ledger import HOUR_MS, Buckets
from app.ledger_reader import LedgerReader
from app.retention import month_begin_ms, oldest_ms
from app.store import Store
from workers import count_rows, reconcile
from workers.count_rows import DAY, Hours, Rows
from workers.letters import payloads
from workers.reconcile import Report, Verdict
from workers.tidy import CANARY_HOURS

LOOK_SECONDS = 0.25  # between two looks at what moves
CONFIRM_SECONDS = 1.0  # a difference must last: an erasure deletes rows first and counts them then
MARGIN_HOURS = 2  # hours that may be folded while this runs are taken as folded already


class Verifier:
    """One run. Methods raise redis_client.UNREACHABLE and StoreError.

    `since_hour`: None for everything. `wait_seconds`: how long what moves is looked at.
    """

    def __init__(
        self,
        redis: Redis,
        store: Store,
        reader: LedgerReader,
        *,
        since_hour: int | None,
        wait_seconds: float,
        retention_days: int = 0,
    ) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._since_hour = since_hour
        self._end = time.monotonic() + wait_seconds
        self._kept = int(time.time()) // 3600 - ledger.KEPT_HOURS + MARGIN_HOURS
        self._canaries_from = int(time.time()) // 3600 - CANARY_HOURS
        self._place = partial(reconcile.place, kept_from_hour=self._kept)
        self._expired_hour = month_begin_ms(oldest_ms(retention_days, int(time.time() * 1000))) // HOUR_MS
        self._expiring: set[str] = set()  # projects that have stored events of months that are dropped
        self._buckets: Buckets = {}
        self._report = Report()

    async def run(self) -> Report:
        """Compare everything that belongs to the hours asked for."""
        await self._settle_dead_letters()
        for hours in await self._windows():
            await self._settle(hours)
        report = self._report
        if self._since_hour is not None:
            report.since = reconcile.hour_text(self._since_hour, 0)
        for where in filter(self._is_asked_for, self._buckets):
            ledger.add({"": report.fates}, "", self._buckets[where])
        return report

    async def _look(self) -> Buckets:
        """Read the ledger anew; what is wrong in it by itself is a difference at once."""
        snapshots = await self._reader.read()
        known = set(self._report.differences)
        self._report.differences += [one for one in reconcile.unbalanced(snapshots) if one not in known]
        self._buckets = reconcile.total(snapshots, self._kept)
        self._expiring = reconcile.with_stored_until(snapshots, self._expired_hour)
        return self._buckets

    async def _windows(self) -> list[Hours]:
        """What is compared together: the folded hours, then each day of which ledger or store know."""
        days = set(await count_rows.days(self._store))
        hours = (ledger.split_bucket(where)[1] for where in self._buckets)
        days |= {hour // DAY for hour in hours if hour is not None}
        begin = self._kept if self._since_hour is None else max(self._kept, self._since_hour)
        recent = [Hours(max(day * DAY, begin), (day + 1) * DAY) for day in sorted(days)]
        recent = [one for one in recent if one.first < one.end]
        if self._since_hour is not None and self._since_hour >= self._kept:
            return recent
        oldest = min(days, default=self._kept // DAY) * DAY
        return [Hours(min(oldest, self._kept), self._kept), *recent]

    def _belongs(self, where: str, hours: Hours) -> bool:
        hour = ledger.split_bucket(where)[1]
        return hours.end == self._kept if hour is None else hours.first <= hour < hours.end

    def _is_asked_for(self, where: str) -> bool:
        hour, since = ledger.split_bucket(where)[1], self._since_hour
        return since is None or (since < self._kept if hour is None else hour >= since)

    async def _settle(self, hours: Hours) -> None:
        """Look until each bucket is equal, or different for good, or time is up."""
        differs_since: dict[str, float] = {}
        pending: set[str] | None = None
        while True:
            portions = await count_rows.portion(self._store, hours)
            deleting = await self._deleting()
            # As little as possible between the two looks: what did not move meanwhile is settled.
            before = await self._look()
            rows = await count_rows.count_rows(self._store, portions, self._place)
            await self._look()
            places = {where for where in {*before, *self._buckets, *rows} if self._belongs(where, hours)}
            if pending is None:
                pending = places
                self._report.rows += sum(one.count for one in rows.values())
                self._report.buckets += len(places)
            now, undecided = time.monotonic(), set()
            for where in pending & places:
                found, after = rows.get(where, Rows()), self._buckets.get(where, {})
                verdict = reconcile.judge(before.get(where, {}), found, after)
                if verdict is Verdict.EQUAL:
                    continue
                if verdict is Verdict.MOVING or self._is_going(where, deleting):
                    differs_since.pop(where, None)
                elif now - differs_since.setdefault(where, now) >= CONFIRM_SECONDS:
                    self._report.differences.append(reconcile.difference(where, self._kept, found, after))
                    continue
                undecided.add(where)
            pending = undecided
            # At the end of the wait only a difference that is not confirmed yet is worth another look.
            if not (pending & differs_since.keys() if now > self._end else pending):
                break
            await asyncio.sleep(LOOK_SECONDS)
        for where in sorted(pending):
            fates = self._buckets.get(where, {})
            is_going = self._is_going(where, deleting)
            why = (
                "being erased or dropped by age"
                if is_going
                else f"events arrive; {ledger.queued(fates)} wait in the stream"
            )
            self._report.moving.append(
                reconcile.moving(where, self._kept, rows.get(where, Rows()), fates, why)
            )

    async def _deleting(self) -> set[str]:
        """Projects whose rows are being deleted: the ledger follows when they are gone."""
        marked = cast("set[bytes]", await self._redis.smembers(registry_scripts.DELETED))
        open_ = cast("list[bytes]", await self._redis.hvals(erasure_scripts.OPEN))
        erased = {one.project_id for one in map(decode_open, open_) if one.stage == "hidden"}
        return {one.decode() for one in marked} | erased

    def _is_going(self, where: str, deleting: set[str]) -> bool:
        """Are rows of this bucket deleted just now, or soon, so that the ledger follows?"""
        project_id, hour = ledger.split_bucket(where)
        if project_id in self._expiring and (hour is None or hour < self._expired_hour):
            return True
        return project_id in deleting or (project_id == canary.PROJECT and (hour or 0) < self._canaries_from)

    async def _settle_dead_letters(self) -> None:
        """Every dead letter is counted, and every counted one is there."""
        while True:
            before = await self._look()
            letters = await self._dead_letters()
            await self._look()
            differing = {
                where
                for where in {*letters, *self._buckets}
                if self._is_asked_for(where) and letters[where] != _dead(self._buckets, where)
            }
            is_quiet = all(_dead(before, where) == _dead(self._buckets, where) for where in differing)
            if is_quiet or time.monotonic() > self._end:
                break
            await asyncio.sleep(LOOK_SECONDS)
        for where in sorted(differing):
            expected, found = _dead(self._buckets, where), letters[where]
            finding = reconcile.dead_letters(where, self._kept, expected, found)
            (self._report.differences if is_quiet else self._report.moving).append(finding)

    async def _dead_letters(self) -> Counter[str]:
        """Bucket -> events in the dead letters of all partitions."""
        found: Counter[str] = Counter()
        for _, keys in await self._reader.partitions():
            async for _, payload in payloads(self._redis, keys):
                for where, number in _counts(payload).items():
                    found[self._place(where)] += number
        return found


def _counts(payload: bytes) -> dict[str, int]:
    """What the ledger counts for one dead letter."""
    try:
        return dead_letter.counts(dead_letter.decode(payload))
    except msgspec.DecodeError:  # no drain of ours wrote it, so nothing counted it
        return {}


def _dead(buckets: Buckets, where: str) -> int:
    return buckets.get(where, {}).get(ledger.DEAD, 0)
