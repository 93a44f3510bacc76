"""POST /v1/query/funnel, /retention, /timeline and /fields: from the key to the answer, each a straight line.

Knows HTTP and the order of the steps. What is asked and answered is `app.funnel`'s and its like, what it
means in SQL `app.sql_funnel`'s and its like; the way to the store is `app.ask`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from app import cohorts, funnel, seen_fields, sql_cohorts, sql_funnel, sql_seen_fields
from app.answer import show
from app.ask import Asker, Turn
from app.grant import Grant
from app.http import json_response, while_connected
from app.time_period import Period

# An answer is small and everything before it is large, so blocks are large too; in bytes they are bounded.
_BLOCKS = {"max_block_size": 131_072, "preferred_block_size_bytes": 16_000_000}


class Analysis(Protocol):
    """A checked request of any kind."""

    @property
    def period(self) -> Period: ...


Asked = TypeVar("Asked", bound=Analysis)
Members = dict[str, object]


class AnalyseHandlers:
    """One method for each endpoint. Errors: ApiError."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def funnel(self, request: Request) -> Response:
        """How many customers take one step after the other."""
        return await self._answer(request, funnel.read_funnel, _funnel)

    async def retention(self, request: Request) -> Response:
        """Who of those that began in a day, week or month came back."""
        return await self._answer(request, cohorts.read_retention, _retention)

    async def fields(self, request: Request) -> Response:
        """Which event names and fields there are."""
        return await self._answer(request, seen_fields.read_seen_fields, _fields)

    async def _answer(
        self,
        request: Request,
        read: Callable[[bytes, int], Asked],
        find: Callable[[Asked, Turn], Awaitable[Members]],
    ) -> Response:
        started = time.monotonic()
        grant = await self._asker.grant(request)
        asked = read(await self._asker.body(request), time.time_ns() // 1_000_000)
        fresh_as_of, members = await while_connected(request.receive, self._in_turn(grant, asked, find))
        elapsed_ms = round((time.monotonic() - started) * 1000, 3)
        about = {"time_period": show(asked.period), "elapsed_ms": elapsed_ms, "fresh_as_of": fresh_as_of}
        return json_response(members | about)

    async def _in_turn(
        self, grant: Grant, asked: Asked, find: Callable[[Asked, Turn], Awaitable[Members]]
    ) -> tuple[int, Members]:
        async with self._asker.turn(grant) as turn:
            return turn.fresh_as_of, await find(asked, turn)


async def _funnel(asked: funnel.Funnel, turn: Turn) -> Members:
    rows = await _rows(turn, *sql_funnel.to_statement(asked, turn.scope))
    steps, groups = await asyncio.to_thread(funnel.groups, asked, rows)
    return {"steps": steps, "groups": groups, "window_ms": asked.window_ms}


async def _retention(asked: cohorts.Retention, turn: Turn) -> Members:
    rows = await _rows(turn, *sql_cohorts.to_statement(asked, turn.scope))
    table, groups = await asyncio.to_thread(cohorts.tables, asked, rows)
    return {"cohorts": table.cohorts, "total": table.total, "groups": groups}


async def _fields(asked: seen_fields.SeenFields, turn: Turn) -> Members:
    names = seen_fields.seen_names(await _rows(turn, *sql_seen_fields.to_names(asked, turn.scope)))
    ((paths,),) = await _rows(turn, *sql_seen_fields.to_paths(asked, turn.scope))
    custom = seen_fields.custom_fields(paths)
    wanted = [*seen_fields.COLUMN_FIELDS, *custom[asked.offset : asked.offset + asked.limit]]
    found: list[seen_fields.SeenField] = []
    for start in range(0, len(wanted), sql_seen_fields.FIELDS_AT_ONCE):
        some = wanted[start : start + sql_seen_fields.FIELDS_AT_ONCE]
        (row,) = await _rows(turn, *sql_seen_fields.to_details(asked, turn.scope, some))
        found += seen_fields.seen_fields(some, row)
    return {"event_names": names, "fields": found, "custom_field_count": len(custom)}


async def _rows(turn: Turn, sql: str, parameters: dict[str, Any]) -> list[list[Any]]:
    result = await turn.ask(sql, parameters, _BLOCKS)
    return cast("list[list[Any]]", result.rows)
