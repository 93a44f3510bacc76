"""POST /v1/query/funnel, /retention, /timeline and /fields: from the key to the answer, each a straight line.

Knows HTTP and the order of the steps. What is asked and answered is `app.funnel`'s, `app.cohorts`',
`app.timeline`'s and `app.seen_fields`'; `app.findings` asks the store, by way of `app.ask`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import findings
from app.answer import show
from app.aside import aside
from app.ask import Asker, Turn
from app.cohorts import read_retention
from app.findings import Members
from app.funnel import read_funnel
from app.grant import Grant
from app.http import while_connected
from app.seen_fields import read_seen_fields
from app.time_period import Period
from app.timeline import read_timeline
from app.unsent import Answer

_HEADERS = {"cache-control": "no-store", "content-type": "application/json"}


class Analysis(Protocol):
    """A checked request of any kind."""

    @property
    def period(self) -> Period: ...


Asked = TypeVar("Asked", bound=Analysis)


class AnalyseHandlers:
    """One method for each endpoint. Errors: ApiError."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def funnel(self, request: Request) -> Response:
        """How many customers take one step after the other."""
        grant = await self._asker.grant(request)
        return await self._answer(request, grant, read_funnel, findings.find_funnel)

    async def retention(self, request: Request) -> Response:
        """Who of those that began in a day, week or month came back."""
        grant = await self._asker.grant(request)
        return await self._answer(request, grant, read_retention, findings.find_retention)

    async def timeline(self, request: Request) -> Response:
        """One customer's events in the order of time: the one to whom the key is bound, or who is named."""
        grant = await self._asker.grant(request)
        read = partial(read_timeline, bound_to=grant.customer_identifier)
        return await self._answer(request, grant, read, findings.find_timeline)

    async def fields(self, request: Request) -> Response:
        """Which event names and fields there are."""
        grant = await self._asker.grant(request)
        return await self._answer(request, grant, read_seen_fields, findings.find_fields)

    async def _answer(
        self,
        request: Request,
        grant: Grant,
        read: Callable[[bytes, int], Asked],
        find: Callable[[Asked, Turn], Awaitable[Members]],
    ) -> Response:
        asked = read(await self._asker.body(request), time.time_ns() // 1_000_000)
        content = await while_connected(request.receive, self._in_turn(grant, asked, find))
        return Answer(grant.project_id, content, _HEADERS)

    async def _in_turn(
        self, grant: Grant, asked: Asked, find: Callable[[Asked, Turn], Awaitable[Members]]
    ) -> bytes:
        """The answer's JSON."""
        started = time.monotonic()
        async with self._asker.turn(grant) as turn:
            members = await find(asked, turn)
            elapsed_ms = round((time.monotonic() - started) * 1000, 3)
            about = {
                "time_period": show(asked.period),
                "elapsed_ms": elapsed_ms,
                "fresh_as_of": turn.fresh_as_of,
            }
            # Of a retention it may be millions of numbers. Within the turn: as in `app.read`.
            return await aside(grant.project_id, msgspec.json.encode, members | about)
