"""What operators and tools ask: /livez, /readyz, /metrics, /version, and the descriptions.

`/readyz` proves consuming, not only breathing: the drain writes a proof after it has read the stream and
reached the store, and readiness is lost when the proof grows old or the backlog does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app import metrics
from app.event_schema import EVENT_SCHEMA
from app.http import json_response
from app.openapi import openapi
from app.partition import Freshness, Lag
from app.pressure import Pressure
from app.redis_client import UNREACHABLE
from app.stream import APPENDED, DEAD, STORED

MAX_PROOF_AGE_MS = 5_000  # the drain proves itself about once a second
MAX_BACKLOG_AGE_MS = 30_000  # an event that waits longer than this will not be fresh for anybody
ROBOTS = "User-agent: *\nDisallow: /\n"


class Check(msgspec.Struct, frozen=True):
    """One line of readiness."""

    name: str
    ok: bool
    detail: str


class Probes:
    """Handlers without a key: they tell nothing of any project."""

    def __init__(self, freshness: Freshness, is_draining: Callable[[], bool], pressure: Pressure) -> None:
        self._freshness = freshness
        self._is_draining = is_draining
        self._pressure = pressure

    async def livez(self, _request: Request) -> Response:
        """The process runs its loop. No dependency is asked."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 when a new event would be stored and soon be queryable, else 503. `?verbose` lists why."""
        checks = await self._checks()
        status = 200 if all(check.ok for check in checks) else 503
        if "verbose" not in request.query_params:
            failed = [check.name for check in checks if not check.ok]
            return json_response({"ready": not failed, "failed": failed}, status)
        return json_response({"ready": status == 200, "checks": checks}, status)

    async def _checks(self) -> list[Check]:
        checks = [Check("serving", not self._is_draining(), "stopping" if self._is_draining() else "serving")]
        try:
            lags = await self._freshness.lag()
        except UNREACHABLE as error:
            return [*checks, Check("redis", False, type(error).__name__)]
        pressure = self._pressure.reason
        checks += [Check("redis", True, "answers"), Check("accepting", not pressure, pressure or "accepting")]
        return checks + [check for lag in lags for check in _lag_checks(lag)]

    async def metrics(self, _request: Request) -> Response:
        """Prometheus text of all processes of this machine."""
        try:
            for lag in await self._freshness.lag():
                partition = str(lag.partition)
                metrics.STREAM_ENTRIES.labels(partition).set(lag.entries)
                metrics.STREAM_AGE_SECONDS.labels(partition).set(lag.oldest_ms / 1000)
                for fate in (APPENDED, STORED, DEAD):
                    metrics.LEDGER.labels(partition, fate).set(lag.ledger.get(fate, 0))
        except UNREACHABLE:
            pass  # the counters of this process are still worth reading, then most of all
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def version(self, _request: Request) -> Response:
        """Name and version of the program."""
        return json_response({"name": "eventbunker", "version": version("eventbunker")})

    async def openapi(self, _request: Request) -> Response:
        """The OpenAPI 3.1 description; equals the routes."""
        return json_response(openapi())

    async def example_event_body(self, _request: Request) -> Response:
        """The JSON Schema of an event, as enforced."""
        return json_response(EVENT_SCHEMA)

    async def robots(self, _request: Request) -> Response:
        """Nothing here is for crawlers."""
        return PlainTextResponse(ROBOTS)


def _lag_checks(lag: Lag) -> list[Check]:
    age = lag.proved_ms_ago
    proof = "no drain has ever worked on it" if age is None else f"proved {age} ms ago"
    return [
        Check(f"drain {lag.partition}", age is not None and age <= MAX_PROOF_AGE_MS, proof),
        Check(
            f"backlog {lag.partition}",
            lag.oldest_ms <= MAX_BACKLOG_AGE_MS,
            f"{lag.entries} entries, the oldest {lag.oldest_ms} ms old",
        ),
    ]
