"""POST /v1/manage/usage: what a project has stored, by day and event name, and what became of the rest."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.requests import Request
from starlette.responses import Response

from app import sql_usage
from app import usage as daily
from app.answer import show
from app.ask import Asker
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.http import json_response, while_connected
from app.ledger import Fates
from app.ledger_reader import LedgerReader
from app.master_request import MasterRequests
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.settings import Settings

LEDGER_SECONDS = 2.0
_log = structlog.get_logger(__name__)


class UsageHandler:
    """The one call. Errors: ApiError."""

    def __init__(self, registry: Registry, asker: Asker, ledger: LedgerReader, settings: Settings) -> None:
        self._requests = MasterRequests(registry, settings, lambda _body, _kind: [])
        self._asker = asker
        self._ledger = ledger

    async def usage(self, request: Request) -> Response:
        started = time.monotonic()
        asked = await self._requests.of_project(request, daily.UsageRequest)
        wanted = daily.to_usage(asked, time.time_ns() // 1_000_000)
        grant = Grant(KeyType.PROJECT, "", "", asked.project_id)
        fresh_as_of, days = await while_connected(request.receive, self._days(wanted, grant))
        answer = daily.UsageAnswer(
            project_id=asked.project_id,
            count=sum(day.count for day in days),
            days=days,
            time_period=show(wanted.period),
            elapsed_ms=round((time.monotonic() - started) * 1000, 3),
            fresh_as_of=fresh_as_of,
        )
        return json_response(answer)

    async def _days(self, wanted: daily.Usage, grant: Grant) -> tuple[int, list[daily.Day]]:
        async with self._asker.turn(grant) as turn:
            statement, parameters = sql_usage.to_statement(wanted, turn.scope)
            result = await turn.ask(statement, parameters)
            fresh_as_of = turn.fresh_as_of
        if len(result.rows) > daily.MAX_ROWS:
            raise ApiError(
                Kind.QUERY_TOO_EXPENSIVE,
                f"More than {daily.MAX_ROWS} pairs of day and event name; narrow time_period.",
            )
        by_hour, kept_from_hour = await self._fates(wanted)
        return fresh_as_of, list(daily.days(wanted, result.rows, by_hour, kept_from_hour))

    async def _fates(self, wanted: daily.Usage) -> tuple[dict[int, Fates] | None, int]:
        """What the ledger knows of these hours; None while it cannot be asked: the rows do not need it."""
        try:
            async with asyncio.timeout(LEDGER_SECONDS):
                return await self._ledger.of_project(wanted.project_id, daily.hours(wanted))
        except UNREACHABLE:
            _log.warning("ledger_unknown", exc_info=True)
            return None, 0
