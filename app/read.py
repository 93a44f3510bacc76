"""POST /v1/query/json: a straight line from the key to the rows.

Knows HTTP and the order of the steps; the language is `app.query`'s, its meaning `app.sql`'s, the shape
of the answer `app.answer`'s. A query has limits of its own in the store and dies alone; how many run at
once is bounded here, so that a page full of charts waits its turn instead of taking the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response

from app.answer import render
from app.errors import ApiError, Kind
from app.grant import KeyType
from app.http import read_json_body, while_connected
from app.query import Query, read_query
from app.redis_client import UNREACHABLE
from app.sql import Statement, to_statement
from app.store import PASSING_CODES, Result, Store, StoreRefused, StoreUnavailable
from app.turns import Turns

if TYPE_CHECKING:
    from app.registry import Registry
    from app.settings import Settings

MAX_RESULT_BYTES = 64 * 1024 * 1024  # held in memory once here and once in the store
MAX_WAITING_PER_SLOT = 16
FRESHNESS_SECONDS = 1.0
# ClickHouse's codes for a query that exceeded a limit of its own, and what the client may do about it.
# Source: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
_OWN_LIMITS = {
    158: "rows",
    159: "time",
    160: "time",
    241: "memory",
    307: "bytes read",
    396: "size of the answer",
}
# Groups are formed a block at a time, and a value of any type costs a few steps for each block, so blocks are
# large; in bytes too they are bounded, which counts where values are long.
_GROUPED = {"max_block_size": 131_072, "preferred_block_size_bytes": 16_000_000}
_log = structlog.get_logger(__name__)


class Freshness(Protocol):
    """Who knows how far the stream has been drained."""

    async def fresh_as_of(self) -> int:
        """Unix milliseconds up to which every event that reached the stream is in the store."""
        ...


class ReadHandlers:
    """The query endpoints."""

    def __init__(self, registry: Registry, store: Store, freshness: Freshness, settings: Settings) -> None:
        self._registry = registry
        self._store = store
        self._freshness = freshness
        self._limits = settings.limits
        at_once = self._limits.max_concurrent_queries
        # Waited for no longer than a query may take.
        self._turns = Turns(
            at_once, at_once * MAX_WAITING_PER_SLOT, self._limits.query_timeout, "queries are running"
        )
        self._proved_ms = 0

    async def query_json(self, request: Request) -> Response:
        """Answer one query. Errors: ApiError."""
        started = time.monotonic()
        secret = request.headers.get("x-eventbunker-query-key")
        grant = await self._registry.authorise(secret, KeyType.QUERY)
        body = await read_json_body(request, self._limits.max_request_bytes)
        query = read_query(body, grant, time.time_ns() // 1_000_000)
        statement = to_statement(query)
        fresh_as_of, result = await while_connected(request.receive, self._run(query, statement))
        elapsed_ms = (time.monotonic() - started) * 1000
        # In a thread: thousands of rows would hold up every event that is being tracked.
        content = await asyncio.to_thread(
            render, query, statement, result.rows, elapsed_ms=elapsed_ms, fresh_as_of=fresh_as_of
        )
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    async def _run(self, query: Query, statement: Statement) -> tuple[int, Result]:
        """The rows, and the moment up to which they are complete."""
        async with self._turns.turn():
            # Before the rows are read: an event stored meanwhile is more than was promised, never less.
            fresh_as_of = await self._fresh_as_of()
            return fresh_as_of, await self._ask(statement, {} if query.is_raw else _GROUPED)

    async def _fresh_as_of(self) -> int:
        """What the stream says, or said last: a moment once proved stays true, so stored events can be
        queried while Redis is away. 0 where it never said anything."""
        try:
            async with asyncio.timeout(FRESHNESS_SECONDS):
                self._proved_ms = max(self._proved_ms, await self._freshness.fresh_as_of())
        except UNREACHABLE:  # the rows do not depend on it
            _log.warning("freshness_unknown", exc_info=True)
        return self._proved_ms

    async def _ask(self, statement: Statement, own: Mapping[str, int]) -> Result:
        settings: dict[str, str | int | float] = {
            **own,
            "readonly": 2,
            "max_memory_usage": self._limits.query_max_memory_bytes,
            "max_result_bytes": MAX_RESULT_BYTES,
            "result_overflow_mode": "throw",
            "timeout_overflow_mode": "throw",
            "output_format_json_escape_forward_slashes": 0,
            # Weeks, months and years that begin before 1970 would be clamped to it.
            "enable_extended_results_for_datetime_functions": 1,
        }
        try:
            return await self._store.ask(
                statement.sql,
                statement.parameters,
                settings=settings,
                timeout_seconds=self._limits.query_timeout,
            )
        except StoreUnavailable:
            raise _unavailable() from None
        except StoreRefused as error:
            # "(total)": the store as a whole is short of memory, which is no fault of this query.
            if error.code in _OWN_LIMITS and "(total)" not in error.message:
                limit = _OWN_LIMITS[error.code]
                raise ApiError(
                    Kind.QUERY_TOO_EXPENSIVE,
                    f"The query exceeded its limit of {limit}; narrow time_period or filters.",
                ) from None
            if error.code in PASSING_CODES:
                raise _unavailable() from None
            raise


def _unavailable() -> ApiError:
    return ApiError(Kind.UNAVAILABLE, "The event store does not answer; try again.", retry_after_seconds=1)
