"""POST /v1/query/funnel, /retention, /timeline, /fields: from the key to the answer, each a straight line.

Knows HTTP and the order of the steps. What is asked is read by `app.funnel` and its like, what it means in SQL
is `app.sql_funnel`'s and its like; the way to the store is `app.ask`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app import funnel, retention, sql_funnel, sql_retention
from app.answer import ShownPeriod, shown
from app.ask import Asker
from app.grant import Grant
from app.http import json_response, while_connected
from app.scope import Scope
from app.sql_filters import Parameter
from app.time_period import Period

Asked = TypeVar("Asked")
Statement = tuple[str, dict[str, Parameter]]
Rows = list[list[Any]]


class FunnelAnswer(msgspec.Struct, frozen=True):
    """`steps`: all customers together. `groups`: the largest ones, at most `limit`."""

    steps: list[funnel.Step]
    groups: list[funnel.Group]
    window_ms: int
    time_period: ShownPeriod
    elapsed_ms: float
    fresh_as_of: int


class RetentionAnswer(msgspec.Struct, frozen=True):
    """`cohorts`, `total`: everybody. `groups`: the largest ones, at most `limit`."""

    cohorts: list[retention.Cohort]
    total: retention.Total
    groups: list[retention.Group]
    time_period: ShownPeriod
    elapsed_ms: float
    fresh_as_of: int


class AnalyseHandlers:
    """One method for each endpoint. Errors: ApiError."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def funnel(self, request: Request) -> Response:
        """How many customers take one step after the other."""
        line = await self._begin(request, funnel.read_funnel)
        rows = await line.rows(sql_funnel.to_statement)
        steps, groups = await asyncio.to_thread(funnel.groups, line.asked, rows)
        return line.answer(FunnelAnswer, steps=steps, groups=groups, window_ms=line.asked.window_ms)

    async def retention(self, request: Request) -> Response:
        """Who of those who began in a day, week or month came back."""
        line = await self._begin(request, retention.read_retention)
        rows = await line.rows(sql_retention.to_statement)
        table, groups = await asyncio.to_thread(retention.tables, line.asked, rows)
        return line.answer(RetentionAnswer, cohorts=table.cohorts, total=table.total, groups=groups)
