"""POST /v1/delete/events and /v1/delete/status: a straight line from the DELETE key to a tombstone.

What is meant is `app.erase_request`'s to say; `app.erasures` makes it invisible at once, and the drains make
it gone. What is counted here is what the store holds at that moment.
"""

from __future__ import annotations

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app.ask import Asker, Turn
from app.erase_request import Wanted, read_erasure, read_status
from app.erasure_report import Report
from app.erasures import Erasures, TooMany
from app.errors import ApiError, Kind, Problem, invalid_body
from app.grant import Grant, KeyType
from app.http import json_response, read_json_body, while_connected
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.settings import Settings
from app.sql_fields import elements
from app.sql_filters import asked, where
from app.sql_literals import Parameters
from app.store import StoreError
from app.time_period import WHOLE
from app.tombstone import digest

DELETE_KEY = "x-eventbunker-delete-key"
RETRY_AFTER_SECONDS = 30  # two rounds of the eraser


class EraseHandlers:
    """The two endpoints. Errors: ApiError."""

    def __init__(self, registry: Registry, erasures: Erasures, asker: Asker, settings: Settings) -> None:
        self._registry = registry
        self._erasures = erasures
        self._asker = asker
        self._max_bytes = settings.limits.max_request_bytes

    async def delete_events(self, request: Request) -> Response:
        """Erase, or only count where `dry_run` says so."""
        grant = await self._grant(request)
        wanted = read_erasure(
            await read_json_body(request, self._max_bytes), grant, time.time_ns() // 1_000_000
        )
        horizon_ms = None if wanted.is_dry_run else await self._horizon_ms()
        async with self._asker.turn(grant) as turn:
            matched = await while_connected(request.receive, count(turn, wanted, horizon_ms))
        if wanted.is_dry_run:
            return json_response({"erasure_id": None, "matched": matched.events, "state": "dry_run"})
        # From here on whether or not the client waits: half an erasure would be none.
        report = await self._begin(wanted, matched, grant)
        answer = {"erasure_id": report.erasure_id, "matched": report.matched, "state": report.state}
        return json_response(answer | {"up_to": report.up_to})

    async def status(self, request: Request) -> Response:
        """One erasure, or the project's, newest first."""
        grant = await self._grant(request)
        wanted = read_status(await read_json_body(request, self._max_bytes))
        owner = _owner(grant)
        try:
            if wanted.erasure_id:
                found = await self._erasures.report(grant.project_id, wanted.erasure_id)
                if found is None or (owner and found.owner != owner):
                    problem = "the project has no such erasure; leave it out to list them"
                    raise invalid_body([Problem("$.erasure_id", problem)])
                return json_response(found.told())
            reports, cursor = await self._erasures.page(grant.project_id, owner, wanted.cursor, wanted.limit)
        except UNREACHABLE:
            raise _unavailable("The registry does not answer; ask again.") from None
        return json_response({"erasures": [one.told() for one in reports], "cursor": cursor})

    async def _grant(self, request: Request) -> Grant:
        grant = await self._registry.authorise(request.headers.get(DELETE_KEY), KeyType.DELETE)
        self._asker.count(grant)
        return grant

    async def _horizon_ms(self) -> int:
        try:
            return await self._erasures.horizon_ms()
        except UNREACHABLE:
            raise _unavailable("The registry does not answer; nothing is erased. Send it again.") from None

    async def _begin(self, wanted: Wanted, matched: Matched, grant: Grant) -> Report:
        try:
            return await self._erasures.begin(
                wanted.tombstone, matched.events, _owner(grant), latest_ms=matched.latest_ms
            )
        except TooMany:
            raise ApiError(
                Kind.RATE_LIMITED,
                "Too many erasures of the project are under way, or their filters are too large; wait until "
                "some are done. One erasure may name 1,000 customers, by `in`.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None
        except (*UNREACHABLE, StoreError, TimeoutError):
            raise _unavailable(
                "It is not known whether the erasure was begun; send it again, which erases nothing twice."
            ) from None


class Matched(msgspec.Struct, frozen=True):
    """How many events, and when the last of them was recorded, Unix ms."""

    events: int
    latest_ms: int


async def count(turn: Turn, wanted: Wanted, horizon_ms: int | None) -> Matched:
    """Events in the store that are meant and not erased yet, recorded up to `horizon_ms` if it is given.

    Errors: ApiError.
    """
    parameters = Parameters()
    condition = where(turn.scope, wanted.tombstone.period or WHOLE, wanted.filters, parameters)
    if horizon_ms is not None:
        most = parameters.add(horizon_ms, "Int64")
        condition += f" AND time_recorded <= fromUnixTimestamp64Milli({most}, 'UTC')"
    found = "count(), toUnixTimestamp64Milli(max(time_recorded))"
    sql = f"{elements(asked(turn.scope, wanted.filters))}SELECT {found} FROM events WHERE {condition}"  # noqa: S608
    [(number, latest_ms)] = (await turn.ask(sql, parameters.values)).rows
    return Matched(int(str(number)), int(str(latest_ms)))


def _owner(grant: Grant) -> str:
    """Another customer's key must not learn of an erasure; and nobody needs the name to tell."""
    customer = grant.customer_identifier
    return "" if customer is None else digest(grant.project_id, customer)


def _unavailable(why: str) -> ApiError:
    return ApiError(Kind.UNAVAILABLE, why, retry_after_seconds=2)
