"""Reads an export from the store, a page at a time, at the pace of whoever takes the pages.

A snapshot: its bound is fixed when it begins, and stands in every statement. Between two pages nothing is
held, neither a connection of the store's nor a turn of its clients: who reads slowly delays nobody. The page
after the one that is being sent is read ahead, so that the store works while the client takes.

What is erased is never sent once it is erased: the tombstones are looked at before each page, and a page that
was read ahead of a new one is read again. So is the key: an export ends with its revocation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeAlias, TypeVar

import msgspec

from app.ask import Turn, unavailable
from app.errors import ApiError, Kind
from app.export_request import Export
from app.export_sql import (
    NAMES,
    PAGE_SETTINGS,
    TEXTS,
    Position,
    Statement,
    count,
    full_arrays,
    page,
    types,
)
from app.fields import resolve
from app.scope import Erased, Scope
from app.time_period import Period
from app.timestamp import parse_timestamp

MAX_PAGE_ROWS = 16_384
MIN_PAGE_ROWS = 64  # which fit into any answer, even if each is as large as an event can be
PAGE_BYTES = 4 * 1024 * 1024  # of rows as text; what a page is aimed at
FRESH_SECONDS = 2.0
IN_FLIGHT_MS = 500  # from an event's time_recorded until it is in the stream; in an outage it may be more
FRESH_POLL_SECONDS = 0.05
PATIENCE_SECONDS, RETRY_SECONDS = 60.0, 0.5
FIELDS_A_STATEMENT = 100
MAX_HALVINGS = 12  # of a period that is too much for one statement

T = TypeVar("T")
# A turn at the store of whoever asked for the export; ApiError where the key is revoked by now.
Turns: TypeAlias = Callable[[], AbstractAsyncContextManager[Turn]]


class Page(msgspec.Struct, frozen=True):
    """`lines`: rows of the columns NAMES and the body, each a JSON array. `erased`: the tombstones of the
    moment at which it was read. `last`: None without rows."""

    lines: bytes
    erased: tuple[Erased, ...]
    last: Position | None
    is_last: bool


class Bound(msgspec.Struct, frozen=True):
    """The events of an export are recorded up to `at_ms`. `is_settled`: an export of what was recorded later
    can go on from there."""

    at_ms: int
    is_settled: bool = True


async def settle(turns: Turns, behind_ms: Callable[[], Awaitable[int | None]], now_ms: int) -> Bound:
    """The bound of an export that begins at `now_ms`: everything recorded up to there that reached the stream
    in time is in the store. The present, as soon as the drain has come beyond it; where it is behind, what it
    has; where an edge's clock is `behind_ms`, up to that. Not just up to it: what is on its way to the stream
    then would come into pages behind their count, or be left out, and also out of an export that goes on."""
    deadline = time.monotonic() + FRESH_SECONDS
    behind = await behind_ms()
    while True:
        async with turns() as turn:
            fresh = turn.fresh_as_of
        is_told = fresh > 0 and behind is not None
        settled = fresh - IN_FLIGHT_MS - (behind or 0)
        if is_told and settled >= now_ms:
            return Bound(now_ms)
        if time.monotonic() > deadline:
            # Redis is away, and has told nothing. What is stored can be had, and nobody knows what is not.
            return Bound(settled) if is_told else Bound(now_ms, is_settled=False)
        # Where the drain keeps up, once is enough: each look takes a turn, for which others may wait too.
        missing = min(IN_FLIGHT_MS, now_ms - settled) / 1000
        await asyncio.sleep(max(FRESH_POLL_SECONDS, missing))


class Pages:
    """The pages of one export. `bound_ms` as `settle` found it."""

    def __init__(self, turns: Turns, export: Export, bound_ms: int) -> None:
        self._turns = turns
        self._export = export
        self._bound_ms = bound_ms
        self._rows = MAX_PAGE_ROWS // 8  # nothing is known of their size yet

    async def count(self) -> int:
        """How many events there are. Errors: ApiError."""
        return sum(int(str(row[0])) for row in await self._ask(count))

    async def types(self) -> dict[str, set[str]]:
        """The custom fields, and of which of the engine's types their values are. Errors: ApiError."""
        found: dict[str, set[str]] = {}
        for path, kinds in await self._ask(types):
            if isinstance(kinds, list):
                found.setdefault(str(path), set()).update(map(str, kinds))
        return found

    async def types_of_values(self) -> dict[str, set[str]]:
        """The same, where an empty array says nothing of its field. Errors: ApiError."""
        found = await self.types()
        mixed = [path for path, kinds in found.items() if TEXTS in kinds and _arrays(kinds) > 1]
        for start in range(0, len(mixed), FIELDS_A_STATEMENT):
            some = mixed[start : start + FIELDS_A_STATEMENT]
            make = partial(full_arrays, fields=[resolve(path) for path in some])
            counts = [sum(int(str(n)) for n in column) for column in zip(*await self._ask(make), strict=True)]
            for path, number in zip(some, counts, strict=True):
                if not number:
                    found[path].discard(TEXTS)
        return found

    async def _ask(self, make: Callable[[Scope, Export, Period, int], Statement]) -> list[list[object]]:
        async def ask(period: Period) -> list[list[object]]:
            async with self._turns() as turn:
                statement = make(turn.scope, self._export, period, self._bound_ms)
                return (await turn.ask(statement.sql, statement.parameters)).rows

        return await _in_halves(self._export.period, ask)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Every event once, in the order of `app.export_sql`: pages of lines, which `app.export_text.rows_of`
        takes apart. Errors: ApiError."""
        after: Position | None = None
        ahead = asyncio.create_task(patiently(partial(self._page, after)))
        try:
            while True:
                found = await ahead
                if await patiently(self._erased) != found.erased:
                    found = await patiently(partial(self._page, after))
                after = found.last or after
                if not found.is_last:
                    ahead = asyncio.create_task(patiently(partial(self._page, after)))
                if found.lines:
                    yield found.lines
                if found.is_last:
                    return
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _erased(self) -> tuple[Erased, ...]:
        async with self._turns() as turn:
            return turn.scope.erased

    async def _page(self, after: Position | None) -> Page:
        while True:
            limit = self._rows
            try:
                async with self._turns() as turn:
                    statement = page(turn.scope, self._export, self._bound_ms, after, limit)
                    lines = await turn.read(statement.sql, statement.parameters, PAGE_SETTINGS)
            except ApiError as error:
                if error.kind is not Kind.QUERY_TOO_EXPENSIVE or limit <= MIN_PAGE_ROWS:
                    raise
                self._rows = max(MIN_PAGE_ROWS, limit // 8)
                continue
            count = lines.count(b"\n")
            if count:
                self._adapt(len(lines) // count)
            return Page(lines, turn.scope.erased, _last(lines), count < limit)

    def _adapt(self, size: int) -> None:
        """As many rows as make a page, by the size of the last ones; growing no faster than twofold."""
        self._rows = max(MIN_PAGE_ROWS, min(PAGE_BYTES // size, 2 * self._rows, MAX_PAGE_ROWS))


def _last(lines: bytes) -> Position | None:
    """Where the page ends. Errors: ApiError where the store's own words about an error follow."""
    if not lines:
        return None
    line = lines[lines.rfind(b"\n", 0, -1) + 1 :]
    try:
        last = dict(zip(NAMES, msgspec.json.decode(line, type=list[object]), strict=False))
        return Position(
            str(last["event_name"]),
            parse_timestamp(str(last["event_time"])),
            int(str(last["time_recorded"])),
            str(last["unique_req_id"]),
        )
    except (msgspec.DecodeError, KeyError, ValueError):
        raise unavailable() from None


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` finds, also if the store is away or busy for a while: an export that has taken an hour
    should not be for nothing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await work()
        except ApiError as error:
            if error.kind is not Kind.UNAVAILABLE or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _arrays(kinds: set[str]) -> int:
    return sum(kind.startswith("Array(") for kind in kinds)


async def _in_halves(
    period: Period, ask: Callable[[Period], Awaitable[list[T]]], halvings: int = MAX_HALVINGS
) -> list[T]:
    """What `ask` finds in `period`: at once, or in its halves where that is too much for one statement."""
    try:
        return await ask(period)
    except ApiError as error:
        middle = (period.start_ms + period.end_ms) // 2
        if error.kind is not Kind.QUERY_TOO_EXPENSIVE or not halvings or middle == period.start_ms:
            raise
    first = await _in_halves(Period(period.start_ms, middle), ask, halvings - 1)
    return first + await _in_halves(Period(middle, period.end_ms), ask, halvings - 1)
