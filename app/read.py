"""POST /v1/query/json: a straight line from the key to the rows.

Knows HTTP and the order of the steps; the language is `app.query`'s, its meaning `app.sql`'s, the shape
of the answer `app.answer`'s, and the way to the store `app.ask`'s.
"""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from app.answer import render
from app.ask import Asker
from app.grant import Grant
from app.http import while_connected
from app.query import Query, read_query
from app.sql import Statement, to_statement
from app.store import Result

# Groups are formed a block at a time, and a value of any type costs a few steps for each block, so blocks are
# large; in bytes too they are bounded, which counts where values are long.
_GROUPED = {"max_block_size": 131_072, "preferred_block_size_bytes": 16_000_000}


class ReadHandlers:
    """The query endpoint."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def query_json(self, request: Request) -> Response:
        """Answer one query. Errors: ApiError."""
        started = time.monotonic()
        grant = await self._asker.grant(request)
        query = read_query(await self._asker.body(request), time.time_ns() // 1_000_000)
        fresh_as_of, statement, result = await while_connected(request.receive, self._run(query, grant))
        elapsed_ms = (time.monotonic() - started) * 1000
        # In a thread: thousands of rows would hold up every event that is being tracked.
        content = await asyncio.to_thread(
            render, query, statement, result.rows, elapsed_ms=elapsed_ms, fresh_as_of=fresh_as_of
        )
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    async def _run(self, query: Query, grant: Grant) -> tuple[int, Statement, Result]:
        """The rows, and the moment up to which they are complete."""
        async with self._asker.turn(grant) as turn:
            statement = to_statement(query, turn.scope)
            settings = {} if query.is_raw else _GROUPED
            result = await turn.ask(statement.sql, statement.parameters, settings)
            return turn.fresh_as_of, statement, result
