"""What operators and tools ask: /livez, /readyz, /metrics, /version, and the descriptions.

`/readyz` is asked by two sorts of readers. A load balancer must know whether this edge can keep an event;
taking it out because a drain is behind, which is so for all edges at once, would turn slow queries into
refused events. Monitoring must know of everything: `?strict`. There consuming is proved, not only breathing:
the drain writes a proof after it has read the stream and reached the store, and the check fails when the
proof grows old or the backlog does. What was proved before this edge began proves nothing: a machine that
comes back has it from before it went down, and its store may not be there yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app import metrics
from app.event_schema import EVENT_SCHEMA
from app.http import json_response
from app.ledger import FATES, QUEUED, imbalance, queued
from app.openapi import openapi
from app.partition import Freshness, Lag
from app.redis_client import ANSWER_SECONDS, UNREACHABLE
from app.single_flight import SingleFlight

MAX_PROOF_AGE_MS = 5_000  # the drain proves itself about once a second
MAX_BACKLOG_AGE_MS = 30_000  # an event that waits longer than this will not be fresh for anybody
REDIS_SECONDS = 1.0  # for Redis to answer a probe: a load balancer takes a late answer for a failure
ROBOTS = "User-agent: *\nDisallow: /\n"


class Acceptance(Protocol):
    """Whoever knows whether an event would be kept durably if it came now. Asked often: must not wait."""

    def refusal(self) -> str:
        """Why an event would be refused; "" while events are welcome."""


class Watch(Protocol):
    """Whoever watches something all the time and knows what is wrong with it. Must not wait."""

    def problem(self) -> str:
        """What is wrong; "" while nothing is."""

    def describe(self) -> str:
        """How it stands, while nothing is wrong."""


class Check(msgspec.Struct, frozen=True):
    """One line of readiness."""

    name: str
    ok: bool
    detail: str


class Probes:
    """Handlers without a key: they tell nothing of any project."""

    def __init__(
        self,
        freshness: Freshness,
        acceptance: Acceptance,
        is_draining: Callable[[], bool],
        watches: Mapping[str, Watch],
    ) -> None:
        self._watches = watches
        self._freshness = freshness
        self._acceptance = acceptance
        self._is_draining = is_draining
        self._began = time.monotonic()
        self._asking: SingleFlight[str, list[Lag]] = SingleFlight(max_concurrent=1)

    async def livez(self, _request: Request) -> Response:
        """The process runs its loop. No dependency is asked."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while this edge keeps events and is not stopping, else 503; `degraded` names failed checks.

        `?strict`: 503 when any check fails. `?verbose`: every check with its detail.
        """
        stopping, refusal = self._is_draining(), self._acceptance.refusal()
        checks = [
            Check("serving", not stopping, "stopping" if stopping else "serving"),
            Check("accepting", not refusal, refusal or "accepting"),
        ]
        every = [*checks, *await self._redis_checks()]
        for name, watch in self._watches.items():
            problem = watch.problem()
            every.append(Check(name, not problem, problem or watch.describe()))
        degraded = [check.name for check in every if not check.ok]
        ready = not degraded if "strict" in request.query_params else all(check.ok for check in checks)
        answer: dict[str, object] = {"ready": ready, "degraded": degraded}
        if "verbose" in request.query_params:
            answer["checks"] = every
        return json_response(answer, 200 if ready else 503)

    async def _redis_checks(self) -> list[Check]:
        serves_ms = int((time.monotonic() - self._began) * 1000)  # before a proof's age is told
        try:
            lags = await self._lags()
        except UNREACHABLE as error:
            return [Check("redis", False, type(error).__name__)]
        of_drains = [check for lag in lags for check in _lag_checks(lag, serves_ms)]
        return [Check("redis", True, "answers"), *of_drains]

    async def _lags(self) -> list[Lag]:
        """Errors: redis_client.UNREACHABLE, also after REDIS_SECONDS."""
        # The bound is outside: redis-py does not let itself be cancelled while it connects.
        asking = self._asking.do("lag", ANSWER_SECONDS, self._freshness.lag)
        return await asyncio.wait_for(asking, REDIS_SECONDS)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus text of all processes of this machine."""
        try:
            for lag in await self._lags():
                partition = str(lag.partition)
                metrics.STREAM_ENTRIES.labels(partition).set(lag.entries)
                metrics.STREAM_AGE_SECONDS.labels(partition).set(lag.oldest_ms / 1000)
                metrics.DRAIN_HALTED.labels(partition).set(bool(lag.halted))
                for fate in FATES:
                    metrics.LEDGER.labels(partition, fate).set(lag.ledger.get(fate, 0))
                metrics.LEDGER.labels(partition, QUEUED).set(queued(lag.ledger))
                metrics.LEDGER_IMBALANCE.labels(partition).set(imbalance(lag.ledger, lag.entries))
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


def _lag_checks(lag: Lag, serves_ms: int) -> list[Check]:
    if lag.is_retired and not lag.entries:
        return []
    age = lag.proved_ms_ago
    proof = "no drain has ever worked on it" if age is None else f"proved {age} ms ago"
    if age is not None and age > serves_ms:
        proof += ", before this edge began"
    works = age is not None and age <= min(MAX_PROOF_AGE_MS, serves_ms) and not lag.halted
    return [
        Check(f"drain {lag.partition}", works, f"halted: {lag.halted}" if lag.halted else proof),
        Check(
            f"backlog {lag.partition}",
            lag.oldest_ms <= MAX_BACKLOG_AGE_MS,
            f"{lag.entries} entries, the oldest {lag.oldest_ms} ms old",
        ),
    ]
