"""POST /v1/query/json: a straight line from the key to the rows.

Knows HTTP and the order of the steps; the language is `app.query`'s, its meaning `app.sql`'s, the shape
of the answer `app.answer`'s, and the way to the store `app.ask`'s.
"""

from __future__ import annotations

import time
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from app.answer import Rendered, render
from app.aside import aside
from app.ask import GROUPED, Asker
from app.formats import Accepted, choose
from app.grant import Grant
from app.http import while_connected
from app.query import read_query
from app.sql import to_statement
from app.unsent import Answer

FEW_ROWS = 100  # of numbers and names: rendered within a millisecond


class ReadHandlers:
    """The query endpoint."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def query_json(self, request: Request) -> Response:
        """Answer one query in the format that it accepts. Errors: ApiError."""
        grant = await self._asker.grant(request)
        accepted = choose(",".join(request.headers.getlist("accept")))
        body = await self._asker.body(request)
        answer = await while_connected(request.receive, self.answer(body, grant, accepted))
        headers = {"cache-control": "no-store", "vary": "Accept", **answer.headers}
        return Answer(grant.project_id, answer.content, headers | {"content-type": answer.content_type})

    async def answer(self, body: bytes, grant: Grant, accepted: Accepted) -> Rendered:
        """The answer to the query in `body` for whoever holds `grant`. Errors: ApiError."""
        started = time.monotonic()
        query = read_query(body, time.time_ns() // 1_000_000)
        async with self._asker.turn(grant) as turn:
            statement = to_statement(query, turn.scope)
            result = await turn.ask(statement.sql, statement.parameters, {} if query.is_raw else GROUPED)
            write = partial(
                render,
                *(query, statement, result.rows),
                elapsed_ms=(time.monotonic() - started) * 1000,
                fresh_as_of=turn.fresh_as_of,
                accepted=accepted,
            )
            if not query.is_raw and len(result.rows) <= FEW_ROWS:
                return write()  # sooner done than a thread is found
            # In a thread: thousands of rows would hold up every event that is being tracked. Within the turn:
            # rows that wait for a thread take as much memory as any, and turns are what bounds it.
            return await aside(grant.project_id, write)
